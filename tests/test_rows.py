"""Test rollout from queries and keys against dense attention in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxflow
from jaxflow import QueryKey, edges, rollout_rows
from jaxflow._blocks import Limits, Pattern, attend

LAYERS, HEADS, GROUPS, N, D = 3, 4, 2, 21, 8
PATTERNS = {
    "causal": {"causal": True},
    "bidirectional": {"causal": False},
    "window": {"causal": True, "window": 6},
    "window on both sides": {"causal": False, "window": 4},
    "chunks": {"causal": True, "chunk": 8},
    "capped": {"causal": True, "soft_cap": 2.0, "scale": 0.5},
    "sinks": {"causal": True, "window": 9, "sinks": np.array([0.5, -2.0, 3.0, 0.0])},
}
MASK = np.arange(N) % 7 != 3  # padding anywhere
MASK[[0, -1]] = False


def drawn(groups=GROUPS, n=N, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (HEADS, groups, groups, HEADS)
    return [rng.normal(size=(LAYERS, heads, n, D)) for heads in shapes]  # q, k, v, gradients


def dense(queries, keys, mask=None, *, causal, window=None, chunk=None, scale=None, soft_cap=None,
          sinks=None):  # fmt: skip
    """Attention ``[H, n, n]`` of one layer, and the log-normalisers."""
    n = queries.shape[1]
    keys = np.repeat(keys, len(queries) // len(keys), axis=0)
    logits = np.einsum("hid,hjd->hij", queries, keys) * (scale or D**-0.5)
    logits = soft_cap * np.tanh(logits / soft_cap) if soft_cap else logits
    query, key = np.indices((n, n))
    allowed = np.ones((n, n), bool) if mask is None else np.broadcast_to(mask, (n, n)).copy()
    if causal:
        allowed &= key <= query
    if window:
        allowed &= abs(query - key) < window
    if chunk:
        allowed &= query // chunk == key // chunk
    weights = np.where(allowed[None], np.exp(logits), 0)
    total = weights.sum(-1) + (0 if sinks is None else np.exp(sinks)[:, None])
    with np.errstate(divide="ignore"):
        return weights / np.where(total > 0, total, 1)[..., None], np.log(total)


def layers_of(arrays, dtype=np.float32, **options):
    fields = [np.asarray(one, dtype) for one in arrays]
    options = {name: np.asarray(value, dtype) if name == "sinks" else value
               for name, value in options.items()}  # fmt: skip
    return [
        QueryKey(q, k, values=v, gradients=g, **options) for q, k, v, g in zip(*fields, strict=True)
    ]


def attention_of(arrays, mask=None, **options):
    pairs = zip(*arrays[:2], strict=True)
    return np.stack([dense(q, k, mask, **options)[0] for q, k in pairs])


def real(mask):
    return np.ones(N, bool) if mask is None else mask


def expected(attention, mask=None):
    """Rollout of all layers, padding without edges."""
    kept = real(mask)[:, None] & real(mask)[None]
    rows = [np.diag(real(mask)).astype(float)]
    for layer in attention.mean(1):
        rows.append(np.where(kept, layer / 2 + np.eye(N) / 2, 0) @ rows[-1])
    return np.stack(rows[1:])


def check_rows(options, mask, block):
    arrays = drawn()
    wanted = expected(attention_of(arrays, mask, **options), mask)
    layers = layers_of(arrays, np.float64, **options)
    found = rollout_rows(layers, layers=None, mask=mask, block=block)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_rows_are_those_of_dense_attention(name, padded):
    check_rows(PATTERNS[name], MASK if padded else None, 8)


@pytest.mark.parametrize("block", [4, 7, 64, None])
def test_the_size_of_blocks_changes_nothing(block):
    check_rows({"causal": True, "window": 13}, None, block)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("groups", [1, 4])
def test_several_rows_and_groups_of_heads(rows, groups):
    arrays = drawn(groups, n=100, seed=rows)
    attention = attention_of(arrays, causal=True)
    wanted = oracles.rollout(attention, residual=0.3)[-1, -rows:]
    layers = layers_of(arrays, causal=True)
    sources = range(100 - rows, 100)
    found = rollout_rows(layers, sources, residual=0.3, block=32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], wanted, rtol=2e-6)
    whole = jaxflow.rollout(attention.astype(np.float32), residual=0.3, sources=sources)
    np.testing.assert_allclose(found[0], whole[-1], atol=1e-6)
    given = np.random.default_rng(1).normal(size=(rows, 100))
    found = rollout_rows(layers, weights=given, residual=0.3, layers=[1], block=32)[0]
    np.testing.assert_allclose(found, given @ oracles.rollout(attention, 0.3)[1], atol=2e-5)


def test_one_head_and_single_heads():
    arrays = drawn()
    attention, layers = attention_of(arrays, causal=True), layers_of(arrays, causal=True)
    found = rollout_rows(layers, [2, 20], heads=-1, block=8)
    wanted = oracles.rollout(attention, heads=-1)[-1:, [2, 20]]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
    found = rollout_rows(layers, [2, 20], heads="each", layers=[0, 2], block=8)
    wanted = oracles.head_rollout(attention)[[0, 2]][:, :, [2, 20]]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("how", ["rollout", "paths", "product"])
@pytest.mark.parametrize("edge", ["raw", "gradient", "gradient-signed"])
def test_attention_times_gradient(edge, how):
    arrays = drawn()
    attention = attention_of(arrays, causal=True)
    values, slopes = arrays[2], arrays[3]
    values = np.repeat(values, HEADS // GROUPS, axis=1)
    trace = edges.Trace(attention, gradient=np.einsum("lhid,lhjd->lhij", slopes, values))
    with jax.enable_x64(True):
        wanted = np.asarray(edges.aggregate(trace, edge, how, residual=0.4))
    layers = layers_of(arrays, np.float64, causal=True)
    given = {"edge": edge, "how": how, "residual": 0.4, "layers": None, "block": 8}
    np.testing.assert_allclose(rollout_rows(layers, **given), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["rollout", "paths"])
def test_norms(how):
    arrays, width = drawn(), 13
    kernels = np.random.default_rng(9).normal(size=(LAYERS, HEADS, D, width))
    values = np.repeat(arrays[2], HEADS // GROUPS, axis=1)
    moved = np.einsum("lhjd,lhde->lhje", values, kernels)
    parts = np.einsum("lhij,lhje->lije", attention_of(arrays, MASK, causal=True), moved)
    wanted = np.diag(MASK).astype(float)
    for norm in np.linalg.norm(parts, axis=-1):
        norm = np.where(MASK[:, None], norm, 0)
        total = norm.sum(-1, keepdims=True)
        step = norm + np.eye(N)
        if how == "rollout":
            step = 0.6 * norm / np.where(total > 0, total, 1) + 0.4 * np.eye(N)
        wanted = step @ wanted
    layers = layers_of(arrays, np.float64, causal=True)
    pairs = zip(layers, kernels, strict=True)
    layers = [dataclasses.replace(layer, projection=kernel) for layer, kernel in pairs]
    given = {"edge": "norm", "how": how, "residual": 0.4, "mask": MASK, "block": 8}
    found = rollout_rows(layers, **given)[0]
    np.testing.assert_allclose(found, wanted * MASK[:, None], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["rollout", "paths"])
def test_normalised_by_the_receptive_field(how):
    arrays, sources = drawn(), [4, 20]
    layers = layers_of(arrays, causal=True)
    plain = rollout_rows(layers, sources, how=how, layers=None)
    found = rollout_rows(layers, sources, how=how, layers=None, normalise=True, block=8)
    wanted = edges.normalise(plain, how, sources=sources)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    single = rollout_rows(layers, sources, how=how, heads="each", normalise=True, block=8)
    np.testing.assert_allclose(single.mean(1)[0], wanted[-1], rtol=1e-5, atol=1e-7)
    # Uniform queries give what position alone explains, whatever a token may attend to.
    arrays[0] = np.zeros_like(arrays[0])
    for name in ("window", "window on both sides", "chunks"):
        layers = layers_of(arrays, **PATTERNS[name])
        found = rollout_rows(layers, -1, how=how, mask=MASK, normalise=True, block=8)
        seen = found != 0
        np.testing.assert_allclose(found[seen], 1, rtol=1e-5)
        assert seen.any()


def test_kept_normalisers_and_layers_on_demand():
    arrays = drawn()
    options = PATTERNS["sinks"]
    layers = layers_of(arrays, **options)
    wanted = rollout_rows(layers, -1, block=8)
    calls = []

    def layer(place):
        calls.append(place)
        normalisers = dense(arrays[0][place], arrays[1][place], **options)[1].astype(np.float32)
        fields = (one[place].astype(np.float32) for one in arrays[:2])
        return QueryKey(*fields, normalisers=normalisers, **options)

    functions = [lambda place=place: layer(place) for place in range(LAYERS)]
    np.testing.assert_allclose(rollout_rows(functions, -1, block=8), wanted, rtol=1e-5)
    assert calls == [2, 1, 0]
    wrong = dense(arrays[0][0], arrays[1][0], **options)[1] / np.log(2)
    layers[0] = QueryKey(*(one[0].astype(np.float32) for one in arrays[:2]), causal=True,
                         normalisers=wrong)  # fmt: skip
    with pytest.raises(ValueError, match="normalisers must be the natural log"):
        rollout_rows(layers, -1)


def test_texts_of_a_batch_have_their_own_padding_and_sources():
    arrays, mask = drawn(), np.arange(N) < np.array([[N], [9]])
    twice = [np.stack([one, one * 0.5], 1) for one in arrays]  # [L, B, H, n, d]
    found = rollout_rows(layers_of(twice, causal=True), -1, mask=mask, block=8)
    assert found.shape == (2, 1, 1, N)
    for text, last in enumerate((N - 1, 8)):
        alone = [one[:, text] for one in twice]
        wanted = expected(attention_of(alone, mask[text], causal=True), mask[text])[-1, last]
        np.testing.assert_allclose(found[text, 0, 0], wanted, rtol=1e-5, atol=1e-8)
    device = [jnp.asarray(one, jnp.float32) for one in twice[:2]]

    def score(queries, keys, mask, source):
        layers = [QueryKey(*pair, causal=True) for pair in zip(queries, keys, strict=True)]
        return rollout_rows(layers, source, mask=mask, block=8)

    last = jnp.array([N - 1, 8])
    jitted = jax.jit(jax.vmap(score, in_axes=(1, 1, 0, 0)))(*device, mask, last)
    np.testing.assert_allclose(jitted, found, rtol=1e-5, atol=1e-7)


def test_half_precision_is_computed_in_single():
    halves = [one.astype(jnp.bfloat16) for one in drawn()[:2]]
    pairs = [halves, [one.astype(np.float32) for one in halves]]
    found, wanted = (
        rollout_rows([QueryKey(*pair, causal=True) for pair in zip(*one, strict=True)], -1, block=8)
        for one in pairs
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_gradients_are_those_of_dense_attention(name):
    options = {**PATTERNS[name]}
    sinks = options.pop("sinks", np.zeros(HEADS))
    cotangent = np.random.default_rng(3).normal(size=(2, N))

    def rows(block, weights, queries, keys, sinks, residual):
        given = {"sinks": sinks} if name == "sinks" else {}
        layers = [QueryKey(*pair, **options, **given) for pair in zip(queries, keys, strict=True)]
        found = rollout_rows(layers, weights=weights, residual=residual, mask=MASK, block=block)
        return (found[0] * cotangent).sum()

    def whole(weights, queries, keys, sinks, residual):
        allowed = attention_of([np.zeros((1, 1, N, D))] * 2, MASK, **options)[0, 0] > 0
        kept = MASK[:, None] & MASK[None]
        found = jnp.where(MASK[None], weights, 0)
        for q, k in zip(queries[::-1], keys[::-1], strict=True):
            logits = jnp.einsum("hid,hjd->hij", q, jnp.repeat(k, HEADS // GROUPS, 0))
            logits = logits * (options.get("scale") or D**-0.5)
            if cap := options.get("soft_cap"):
                logits = cap * jnp.tanh(logits / cap)
            parts = jnp.where(allowed[None], jnp.exp(logits), 0)
            total = parts.sum(-1) + (jnp.exp(sinks)[:, None] if name == "sinks" else 0)
            layer = (parts / jnp.where(total > 0, total, 1)[..., None]).mean(0)
            step = (1 - residual) * layer + residual * np.eye(N)
            found = found @ jnp.where(kept, step, 0)
        return (found * cotangent).sum()

    with jax.enable_x64(True):
        given = [jnp.asarray(one[:2]) for one in drawn()[:2]]
        weights = jnp.asarray(np.random.default_rng(4).normal(size=(2, N)))
        given = (weights, *given, sinks, 0.4)
        wanted = jax.grad(whole, argnums=range(5))(*given)
        found = jax.jit(jax.grad(rows, argnums=range(1, 6)), static_argnums=0)(8, *given)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_by_blocks_and_its_gradient(name):
    options = {**PATTERNS[name]}
    queries, keys, values, pull = (one[0] for one in drawn())
    weights, normalisers = dense(queries, keys, MASK, **options)
    sinks = options.pop("sinks", None)
    pattern = QueryKey(queries, keys, **options).pattern(8)
    limits = Limits(MASK, options.get("window"), options.get("chunk"))

    def mixed(queries, keys, values, sinks):
        return attend(pattern, queries, keys, values, sinks, limits)

    with jax.enable_x64(True):
        arrays = [jnp.asarray(one) for one in (queries, keys, values)]
        arrays.append(None if sinks is None else jnp.asarray(sinks, float))
        (out, kept), pulled = jax.vjp(mixed, *arrays)
        step = np.random.default_rng(5).normal(size=normalisers.shape)
        step[~np.isfinite(normalisers)] = 0
        slopes = pulled((jnp.asarray(pull), jnp.asarray(step)))
    grouped = np.repeat(values, HEADS // GROUPS, 0)
    np.testing.assert_allclose(out, weights @ grouped, rtol=1e-10, atol=1e-13)
    some = np.isfinite(normalisers)
    np.testing.assert_allclose(kept[some], normalisers[some], rtol=1e-12)

    def score(place, given):
        parts = [queries, keys, values, sinks]
        parts[place] = given
        weights, normalisers = dense(*parts[:2], MASK, sinks=parts[3], **options)
        normalisers = np.where(np.isfinite(normalisers), normalisers, 0)
        grouped = np.repeat(parts[2], HEADS // GROUPS, 0)
        return (weights @ grouped * pull).sum() + (normalisers * step).sum()

    rng = np.random.default_rng(6)
    for place, slope in enumerate(slopes):
        if slope is not None:  # along a direction
            base = [queries, keys, values, sinks][place]
            way = rng.normal(size=base.shape)
            change = score(place, base + 1e-6 * way) - score(place, base - 1e-6 * way)
            np.testing.assert_allclose((np.asarray(slope) * way).sum(), change / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PATTERNS)
def test_no_block_is_computed_in_which_no_key_is_allowed(name):
    options = {key: value for key, value in PATTERNS[name].items() if key != "sinks"}
    allowed = attention_of([np.zeros((1, 1, N, D))] * 2, **options)[0, 0] > 0
    pattern = Pattern(options["causal"], 1.0, block=4)
    limits = Limits(None, options.get("window"), options.get("chunk"))
    first = pattern.firsts(N)
    wanted = [[allowed[a : a + 4, b : b + 4].any() for b in first] for a in first]
    np.testing.assert_array_equal(pattern.reached(N, limits), wanted)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_program_is_lowered_for_every_platform(platform):
    array = jax.ShapeDtypeStruct((2, HEADS, 64, D), jnp.bfloat16)

    def score(queries, keys):
        layers = [
            QueryKey(*pair, causal=True, window=20) for pair in zip(queries, keys, strict=True)
        ]
        return rollout_rows(layers, [-1], block=16).sum()

    for function in (score, jax.grad(score)):
        exported = jax.export.export(jax.jit(function), platforms=[platform])(array, array)
        assert exported.platforms == (platform,)


ONE = QueryKey(np.ones((2, 3, 4), np.float32), np.ones((1, 3, 4), np.float32), causal=True)
BAD = [
    ((ONE,), {}, "attention must be a sequence"),
    ([], {}, "attention must be a sequence"),
    ([np.ones((2, 3, 4))], {}, r"attention\[0\] must be a jaxflow.QueryKey"),
    ([ONE], {"edge": "alti"}, "edge must be one of raw, gradient"),
    ([ONE], {"how": "flow"}, "how must be one of rollout"),
    ([ONE], {"edge": "gradient"}, r"attention\[0\].values must be an array"),
    ([ONE], {"edge": "norm"}, r"attention\[0\].values must be an array"),
    ([ONE], {"heads": "max"}, "heads must be 'mean', 'each'"),
    ([ONE], {"heads": 2}, "heads must be an index from -2 to 1"),
    ([ONE], {"sources": 3}, "sources must be an index from -3 to 2"),
    ([ONE], {"layers": 1}, "layers must be an index"),
    ([ONE], {"mask": np.ones(4, bool)}, r"mask must be boolean of shape \(3,\)"),
    ([ONE], {"residual": 2}, "residual must be a number"),
    ([ONE], {"block": 0}, "block must be a positive"),
    ([ONE], {"weights": np.ones(3)}, "weights must have the shape"),
    ([ONE], {"weights": np.ones((1, 3)), "sources": 0}, "sources must be None"),
]
BAD_FIELDS = [
    ({"queries": np.ones((3, 4), np.float32)}, r"queries must be \[..., heads"),
    ({"queries": np.ones((2, 3, 4), int)}, "queries must be floating-point"),
    ({"keys": np.ones((1, 2, 4), np.float32)}, "keys must have the shape"),
    ({"keys": np.full((1, 3, 4), np.nan, np.float32)}, "keys must be finite"),
    ({"keys": None}, "keys must be an array"),
    ({"keys": np.ones((1, 3, 4))}, "keys must be float32"),
    ({"queries": np.ones((3, 3, 4), np.float32), "keys": np.ones((2, 3, 4), np.float32)},
     "must have key heads that divide its 3"),
    ({"normalisers": np.ones((1, 3))}, "normalisers must have the shape"),
    ({"sinks": np.ones(3, np.float32)}, "sinks must have the shape"),
    ({"window": 0}, "window must be a positive"),
    ({"scale": 0.0}, "scale must be a positive number"),
    ({"soft_cap": -1.0}, "soft_cap must be a positive number"),
    ({"causal": None}, "causal must be True or False"),
]  # fmt: skip


def replaced(fields):
    return QueryKey(**{"queries": ONE.queries, "keys": ONE.keys, "causal": True, **fields})


@pytest.mark.parametrize(
    ("attention", "options", "words"),
    [*BAD[1:], *(([replaced(fields)], {}, words) for fields, words in BAD_FIELDS)],
)
def test_what_cannot_be_used_is_named(attention, options, words):
    with pytest.raises(jaxflow.InputError, match=words):
        rollout_rows(attention, **options)


def test_layers_of_other_texts_are_refused():
    other = QueryKey(np.ones((2, 4, 4), np.float32), np.ones((2, 4, 4), np.float32), causal=True)
    with pytest.raises(jaxflow.InputError, match=r"attention\[0\] must have the texts and tokens"):
        rollout_rows([other, ONE])
