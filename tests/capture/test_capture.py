"""Captured attention against weights computed by hand, however it is written."""

from __future__ import annotations

import collections
import re
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    LOST,
    NONE,
    PARAMS,
    B,
    H,
    N,
    W,
    X,
    Y,
    Z,
    heads,
    layer,
    logits,
    out,
)
from attention_programs import draw
from jax import lax
from many_devices import run_on_devices

import jaxflow
from jaxflow import InputError, attention_gradient, capture, intervene, rollout
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import EncoderConfig
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import init, make_module, roll_up
from jaxflow.models.vit import ViTConfig

ARGUMENTS = (PARAMS, X, Y, Z)
KINDS = {
    "cross": "cross",
    "additive_scores": "cross",
    "pooling": "pooling",
    "pooling_by_product": "pooling",
    "learned_queries": "pooling",
    "memory": "memory",
    "hidden_units_as_memory": "memory",
}


@pytest.fixture(autouse=True)
def _rank_promotion():
    with jax.numpy_rank_promotion("allow"):  # the cases are written as people write them
        yield


def close(found, right, atol=1e-5):
    assert found.shape == right.shape
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (found, right)), atol=atol)


def first(function):
    """The function without the weights that it returns."""
    return lambda *given: function(*given)[0]


def compiled(function, *given):
    """Run at once what is compared, so that it is compiled once."""
    return jax.jit(function)(*given)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_multiplied_with_the_values(name):
    function = first(CASES[name])

    def everything(*given):
        found = capture(function)(*given)
        edited = intervene(function, lambda place, weights: weights)(*given)
        return CASES[name](*given), found, edited

    (output, right), (same, attention), edited = compiled(everything, *ARGUMENTS)
    assert not attention.missed
    assert len(attention) == len(right)
    for site, weights in zip(attention, right, strict=True):
        close(site.weights, weights)
        assert site.kind == KINDS.get(name, "self")
        assert site.source.split(":")[0].endswith("attention_cases.py")
    close(same, output)
    close(edited, output)


@pytest.mark.parametrize("name", NONE)
def test_other_softmaxes_are_no_attention(name):
    attention = capture(NONE[name])(*ARGUMENTS)[1]
    assert len(attention) == 0
    assert not attention.missed
    with pytest.raises(InputError, match="self-attention"):
        attention.stack()


@pytest.mark.parametrize("name", LOST)
def test_a_softmax_that_cannot_be_followed_is_listed(name):
    attention = capture(LOST[name])(*ARGUMENTS)[1]
    assert len(attention) == 0
    assert len(attention.missed) == 1, attention
    assert attention.missed[0].source.split(":")[0].endswith("attention_cases.py")


@pytest.mark.parametrize("name", ["one_softmax_of_two_parts", "softmax_cut_in_two"])
def test_parts_of_one_softmax_are_no_rows_of_attention(name):
    attention = capture(first(CASES[name]))(*ARGUMENTS)[1]
    assert all(site.place.part and not site.place.sink for site in attention)
    if name == "softmax_cut_in_two":  # the rest of each row is on other tokens
        with pytest.raises(InputError, match=r"sum to 1.*attention_cases.py:\d+"):
            attention.stack()


@pytest.mark.parametrize("name", ["plain", "late", "scan_over_layers", "branch", "half_precision"])
def test_outputs_are_the_bits_of_the_function(name):
    function = first(CASES[name])
    plain = jax.jit(function)(*ARGUMENTS)
    np.testing.assert_array_equal(jax.jit(capture(function))(*ARGUMENTS)[0], plain)


GRADIENTS = "plain late grouped_by_reshape nested_scans product_and_sum custom_derivatives branch"


@pytest.mark.parametrize("name", [*GRADIENTS.split(), "pooling_by_product", "merged_batch"])
def test_gradients_are_finite_differences(name):
    function = first(CASES[name])
    with jax.enable_x64(True):
        given = jax.tree.map(lambda a: a.astype(jnp.float64), ARGUMENTS)

        def everything(*given):
            score = lambda output: jnp.tanh(output).sum()  # noqa: E731
            gradients = attention_gradient(function, score)(*given)[2]
            steps = [jnp.cos(jnp.arange(g.size)).reshape(g.shape) for g in gradients]

            def moved(size):
                def edit(place, weights):
                    step = steps[place.index]
                    for iteration in place.iterations:
                        step = step[iteration]
                    return weights + size * step

                return score(intervene(function, edit)(*given))

            slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
            return slope, sum((g * s).sum() for g, s in zip(gradients, steps, strict=True))

        slope, found = compiled(everything, *given)
    np.testing.assert_allclose(found, slope, rtol=1e-5)


def check_program(seed):
    function, given, itself = draw(seed)

    def everything(*given):
        return function(*given), capture(first(function))(*given)

    (output, right), (same, attention) = compiled(everything, *given)
    (site,) = attention
    close(site.weights, right)
    close(same, output)
    assert site.kind == ("self" if itself else "cross"), seed
    assert site.values.shape[-3] * site.place.groups == right.shape[-3], seed


@pytest.mark.parametrize("first_seed", range(0, 40, 10))
def test_programs_at_random(first_seed):
    for seed in range(first_seed, first_seed + 10):
        check_program(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("first_seed", range(10_000, 10_500, 50))
def test_many_programs_at_random(first_seed):
    for seed in range(first_seed, first_seed + 50):
        check_program(seed)


SMALL = {"layers": 3, "heads": 4, "width": 16}
TOKENS = np.random.default_rng(0).integers(5, 30, (2, 7))
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
MODELS = {
    "bert": (BertConfig(vocabulary=30, positions=16, hidden_width=24, **SMALL), TOKENS),
    "gpt2": (Gpt2Config(vocabulary=30, positions=16, **SMALL), TOKENS),
    "vit": (ViTConfig(image=(8, 8), patch=4, labels=("a", "b"), **SMALL), IMAGES),
    "encoder": (EncoderConfig(vocabulary=30, positions=16, **SMALL), TOKENS),
}


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_our_models_return_what_is_captured(name, rolled):
    config, inputs = MODELS[name]
    params = init(config)
    module, params = make_module(config), params["params"]
    if rolled:
        module, params = roll_up(config, {"params": params})
    apply = lambda params, inputs: module.apply({"params": params}, inputs)  # noqa: E731
    output, attention = capture(apply)(params, inputs)
    np.testing.assert_array_equal(attention.stack(), output.attention)
    assert not attention.left_out
    assert "blocks" in attention[0].name


# Transformations


def test_transformations_compose():
    function = first(CASES["scan_over_layers"])
    attend = lambda x: capture(lambda p, x: function(p, x, x, x))(PARAMS, x)[1].stack()  # noqa: E731
    right = attend(X)
    close(jax.jit(attend)(X), right)
    close(jax.vmap(attend)(jnp.stack([X, Y]))[0], right)
    slope = jax.grad(lambda x: (rollout(attend(x))[:, -1, 0, 1]).sum())(X)
    assert slope.shape == X.shape
    assert np.abs(slope).max() > 0
    # A program with a gradient has the attention of its forward pass.
    gradient = jax.grad(lambda x: (CASES["plain"](PARAMS, x, x, x)[0] ** 2).sum())
    (site,) = capture(gradient)(X)[1]
    close(site.weights, CASES["plain"](PARAMS, X, X, X)[1][0])


def test_while_loops_need_a_capacity():
    def function(p, x):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, layer(p, c[1])[0]), (0, x))[
            1
        ]

    (missed,) = capture(function)(PARAMS, X)[1].missed
    assert "capacity" in missed.reason
    assert "attention_cases.py:" in missed.source
    (site,) = capture(function, capacity=4)(PARAMS, X)[1]
    x = X
    for step in range(3):
        x, weights = layer(PARAMS, x)
        close(site.weights[step], weights)
    assert not site.weights[3].any()


def test_shards_are_put_together_or_listed():
    found = run_on_devices(4, "attention_on_devices.py")
    assert all(one["output"] == 0 for one in found.values())
    for name in ("heads_sharded", "keys_gathered", "heads_for_tokens"):
        assert found[name]["weights"][0] < 1e-6
        assert found[name]["values"] == [True]
    for name in ("heads_by_number", "blocks_of_tokens"):
        (source,) = found[name]["missed"]
        assert "attention_cases.py:" in source
        assert not found[name]["weights"]


def of_each_other(p, q, kv):
    """One head over the queries of one array and the keys of another."""
    return jax.nn.softmax(q @ p["q"] @ (kv @ p["k"]).swapaxes(1, 2)) @ (kv @ p["v"]) @ p["o"]


def examples_of_two(p, x, y):
    both = jnp.concatenate([x, y]) @ p["q"]
    return of_each_other(p, both[:B], both[B:])


def one_head_of_many(p, x, y):
    q, k, v = ((x @ p[name])[:, :, None] for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, N, W) @ p["o"]


def shared_values(p, x, y):
    weights = jax.nn.softmax(logits(heads(x @ p["q"]), heads(x @ p["k"])))
    return jnp.einsum("bhqk,bkd->bhqd", weights, x @ p["v"]).mean(1) @ p["o"]


def temperatures(p, x, y):
    def one(scale):
        weights = jax.nn.softmax(scale * logits(heads(x @ p["q"]), heads(x @ p["k"])))
        return out(p, weights, heads(x @ p["v"]))

    def queries(scale):
        weights = jax.nn.softmax(logits(heads(scale * x @ p["q"]), heads(x @ p["k"])))
        return out(p, weights, heads(x @ p["v"]))

    return jax.vmap(one)(jnp.arange(1.0, 4)) + jax.vmap(queries)(jnp.arange(1.0, 4))


def divided_twice(p, x, y):
    e = jnp.exp(x @ x.swapaxes(1, 2) / 9)
    total = e.sum(-1, keepdims=True)
    return e @ x / total + 2 * (e @ x) / total


STRUCTURES = [
    (examples_of_two, [("cross", (B, 1, N, N))]),
    (lambda p, x, y: of_each_other(p, *[jnp.concatenate([x, y])] * 2), [("self", (4, 1, N, N))]),
    (
        lambda p, x, y: jax.vmap(lambda q: of_each_other(p, q[None], x))(x),
        [("cross", (B, B, 1, N, N))],
    ),
    (one_head_of_many, [("self", (B, 1, N, N))]),
    (shared_values, [("self", (B, H, N, N))]),
    (temperatures, [("self", (B, 3, H, N, N))] * 2),
    (divided_twice, [("self", (B, 1, N, N))] * 2),
    (
        lambda p, x, y: jax.jvp(lambda x: of_each_other(p, x, x), (x,), (y,)),
        [("self", (B, 1, N, N))],
    ),
    (
        lambda p, x, y: jax.nn.dot_product_attention(
            heads(x), heads(y)[:, :, :2], heads(y)[:, :, 2:]
        ),
        [("cross", (B, H, N, N))],
    ),
]


@pytest.mark.parametrize(("function", "right"), STRUCTURES)
def test_kinds_heads_and_batch_axes_are_told_apart(function, right):
    attention = capture(function)(PARAMS, X, Y)[1]
    assert [(site.kind, site.weights.shape) for site in attention] == right
    assert not attention.missed


def test_dropout_and_softmax_are_different_stages():
    used = capture(first(CASES["dropout_by_select"]))(*ARGUMENTS)[1][0]
    before = capture(first(CASES["dropout_by_select"]), stage="softmax")(*ARGUMENTS)[1][0]
    assert (used.weights == 0).any()
    close(before.weights, CASES["plain"](*ARGUMENTS)[1][0])


@pytest.mark.parametrize("name", ["sink_in_the_denominator", "sink_as_a_column", "one_more"])
def test_a_sink_has_its_share(name):
    attention = capture(first(CASES[name]))(*ARGUMENTS)[1]
    weights = CASES[name](*ARGUMENTS)[1][0]
    close(attention[0].sink, 1 - weights.sum(-1))
    close(attention.stack()[:, 0], weights)
    close(attention.stack(renormalise=True).sum(-1), jnp.ones((B, 1, H, N)))


def test_encoder_and_decoder_are_told_apart():
    def model(p, x, z):
        z, inner = layer(p, z)
        x, outer = layer(p, x)
        weights = jax.nn.softmax(logits(heads(x @ p["q"]), heads(z @ p["k"])))
        return out(p, weights, heads(z @ p["v"])), (inner, outer, weights)

    attention = capture(first(model))(PARAMS, X, Z)[1]
    right = model(PARAMS, X, Z)[1]
    for found, weights in zip(
        (attention.encoder, attention.decoder, attention.cross), right, strict=True
    ):
        close(found[:, 0], weights)
    with pytest.raises(InputError, match="one shape"):
        attention.stack()
    close(attention.select(lambda place: place.index == 1).stack()[:, 0], right[1])
    assert [site.kind for site in attention.select("cross")] == ["cross"]


def test_an_intervention_changes_one_layer():
    function = first(CASES["scan_over_layers"])

    def last_uniform(place, weights):
        return jnp.where(place.iterations[0] == 2, 1 / N, weights)

    def by_hand(p, x):
        for scale in (1.0, 2.0, 3.0):
            q, k, v = (heads(x @ w) for w in (scale * p["q"], p["k"], p["v"]))
            w = jax.nn.softmax(logits(q, k))
            x = x + out(p, jnp.full_like(w, 1 / N) if scale == 3 else w, v)
        return x

    close(intervene(function, last_uniform)(*ARGUMENTS), by_hand(PARAMS, X))


# What is refused or reported


def online(p, x, z):
    """Attend with a running maximum, two chunks of keys one after the other."""
    q, k, v = heads(x @ p["q"]), heads(z @ p["k"]), heads(z @ p["v"])
    chunks = [t.reshape(B, 2, 3, H, -1).swapaxes(0, 1) for t in (k, v)]

    def step(carry, chunk):
        top, total, sums = carry
        s = logits(q, chunk[0])
        new = jnp.maximum(top, s.max(-1, keepdims=True))
        e, fade = jnp.exp(s - new), jnp.exp(top - new)
        sums = sums * fade + jnp.einsum("bhqk,bkhd->bhqd", e, chunk[1])
        return (new, total * fade + e.sum(-1, keepdims=True), sums), None

    zero = jnp.zeros((B, H, N, 1))
    start = (zero - 1e9, zero, jnp.zeros((B, H, N, v.shape[-1])))
    (_, total, sums), _ = lax.scan(step, start, chunks)
    return sums / total


def callback(p, x, z):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda x: x, shape, x)


@pytest.mark.parametrize(("function", "reason"), [(online, "online"), (callback, "callback")])
def test_what_is_missed_is_reported_with_its_place(function, reason):
    attention = capture(function)(PARAMS, X, Z)[1]
    assert len(attention) == 0
    assert reason in attention.missed[0].reason
    assert "test_capture.py:" in attention.missed[0].source
    with pytest.raises(InputError, match=r"test_capture.py:"):
        attention.stack()


def test_a_fused_kernel_is_replaced_by_its_reference():
    from jax.experimental import pallas

    def kernel(q, k, v, o):
        o[...] = jax.nn.softmax(q[...] @ k[...].T) @ v[...]

    def attend(p, x):
        shape = jax.ShapeDtypeStruct((N, W), x.dtype)
        fused = pallas.pallas_call(kernel, out_shape=shape, interpret=True, name="fused")
        return fused(x[0] @ p["q"], x[0] @ p["k"], x[0] @ p["v"]) @ p["o"]

    reference = lambda q, k, v: jax.nn.softmax(q @ k.T) @ v  # noqa: E731
    (missed,) = capture(attend)(PARAMS, X)[1].missed
    assert "kernels={'fused'" in missed.reason
    output, attention = capture(attend, kernels={"fused": reference})(PARAMS, X)
    close(output, attend(PARAMS, X))
    close(attention[0].weights, jax.nn.softmax(X[0] @ PARAMS["q"] @ (X[0] @ PARAMS["k"]).T)[None])
    with pytest.raises(InputError, match="fused"):
        capture(attend, kernels={"fused": lambda q, k, v: q[1:]})(PARAMS, X)


def test_the_kernels_of_jax_are_known():
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    def attend(p, x):  # 8 tokens in blocks of 4, causal
        q, k, v = (
            jnp.pad((x @ p[n])[:, :, None, :4], ((0, 0), (0, 3), (0, 0), (0, 0))) for n in "qkv"
        )
        sizes = BlockSizes(*[4] * 6)
        return mha(q, k, v, None, sm_scale=0.5, causal=True, interpret=True, block_sizes=sizes)

    output, attention = capture(attend)(PARAMS, X)
    close(output, attend(PARAMS, X))
    q, k = (jnp.pad((X @ PARAMS[n])[..., :4], ((0, 0), (0, 3), (0, 0))) for n in "qk")
    right = jax.nn.softmax(jnp.where(jnp.tri(8, dtype=bool), q @ k.swapaxes(1, 2) / 2, -jnp.inf))
    close(attention[0].weights, right[:, None])
    assert attention[0].kind == "self"
    with pytest.raises(InputError, match="mha_forward"):
        attention_gradient(attend, jnp.sum)(PARAMS, X)


def test_rows_and_shapes_that_cannot_be_stacked_name_their_site():
    attention = capture(first(CASES["dropout_by_select"]))(*ARGUMENTS)[1]
    with pytest.raises(InputError, match=r"sum to 1.*attention_cases.py:\d+"):
        attention.stack()
    assert attention.stack(check=False).shape == (B, 1, H, N, N)


def late_of_another_sum(p, x, y, z):
    q, k, v = (heads(x @ p[name]) for name in "qkv")
    e = jnp.exp(logits(q, k))
    o = jnp.einsum("bhqk,bkhd->bqhd", e * (jnp.arange(N) < 3), v)
    o = o / e.sum(-1).transpose(0, 2, 1)[..., None]
    return o.reshape(B, N, W) @ p["o"]


BAD = [
    (lambda: intervene(late_of_another_sum, lambda p, w: w)(*ARGUMENTS), "another sum"),
    (lambda: capture(first(CASES["plain"]), stage="raw"), "stage"),
    (lambda: capture(first(CASES["plain"]), select="none")(*ARGUMENTS), "select"),
    (lambda: capture(first(CASES["plain"]), data_argnums=9)(*ARGUMENTS), "data_argnums"),
    (lambda: intervene(NONE["router"], lambda p, w: w)(*ARGUMENTS), "attention"),
    (lambda: intervene(first(CASES["plain"]), lambda p, w: w[0])(*ARGUMENTS), "shape"),
    (lambda: attention_gradient(first(CASES["plain"]), lambda o: o)(*ARGUMENTS), "scalar"),
    (lambda: capture(first(CASES["plain"]))(*ARGUMENTS)[1].cross, "cross-attention"),
]


@pytest.mark.parametrize(("call", "named"), BAD)
def test_unusable_calls_are_refused(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_arguments_told_to_be_data_decide_what_is_attention():
    router = NONE["router"]
    assert not capture(router, data_argnums=(1, 2, 3))(*ARGUMENTS)[1]
    # The experts' matrix as data: its columns are then the keys.
    assert capture(router, data_argnums=(0, 1))(*ARGUMENTS)[1]


def test_layers_of_several_loops_are_stacked_in_the_order_of_computation():
    def block(p, x, scale):
        return layer({**p, "q": scale * p["q"]}, x)

    def model(p, x):
        def outer(x, scale):
            x, first = lax.scan(lambda x, s: block(p, x, s * scale), x, jnp.arange(1.0, 3))
            x, second = lax.scan(lambda x, s: block(p, x, s + scale), x, jnp.arange(1.0, 3))
            x, third = block(p, x, scale)
            return x, jnp.concatenate([first, second, third[None]])

        x, weights = lax.scan(outer, x, jnp.arange(1.0, 4))
        x, last = lax.scan(lambda x, s: block(p, x, s), x, jnp.arange(1.0, 3), reverse=True)
        return x, jnp.concatenate([weights.reshape(-1, *weights.shape[2:]), last[::-1]])

    attention = capture(first(model))(PARAMS, X)[1]
    close(attention.stack(), model(PARAMS, X)[1].swapaxes(0, 1))


def test_what_a_closure_refers_to_is_of_the_moment_in_inner_programs_and_edits():
    holder = {"scale": jnp.ones((N, N)), "edit": 0.0}

    def attend(x):
        scaled = jax.jit(lambda s: s * holder["scale"])
        return jax.nn.softmax(scaled(x[0] @ x[0].T / 9)) @ x[0]

    captured = capture(attend)
    edited = intervene(attend, lambda place, weights: weights * holder["edit"])
    before = captured(X)[0], edited(X)
    holder.update(scale=jnp.full((N, N), 0.1), edit=1.0)
    close(captured(X)[0], attend(X))
    close(edited(X), attend(X))
    assert np.abs(before[0] - captured(X)[0]).max() > 0.01
    assert not before[1].any()


def test_experts_latents_and_tokens_are_told_apart():
    def perceiver(p, x):
        read = jax.nn.softmax(p["memory"] @ x.swapaxes(1, 2)) @ x
        latents = read + jax.nn.softmax(read @ read.swapaxes(1, 2)) @ read
        return jax.nn.softmax(x @ latents.swapaxes(1, 2)) @ latents

    kinds = [site.kind for site in capture(perceiver)(PARAMS, X)[1]]
    assert kinds == ["pooling", "self", "cross"]

    def flattened(p, x):
        q, k, v = (heads(x @ p[name]) for name in "qkv")
        o = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits(q, k)), v)
        return o.reshape(B, N * W) @ jnp.ones((N * W, 2))

    def step(state, batch):
        return jax.grad(lambda p: (flattened(p, batch["x"]) ** 2).mean())(state["params"])

    assert capture(flattened)(PARAMS, X)[1][0].weights.shape == (B, H, N, N)
    state = {"params": PARAMS, "count": jnp.zeros((), jnp.int32)}
    (site,) = capture(step)(state, {"x": X, "y": Y})[1]
    assert (site.kind, site.weights.shape) == ("self", (B, H, N, N))


def test_the_versions_of_jax_that_this_was_tried_with():
    # Another version: run tests/capture with it, then name it here.
    root = Path(__file__).parents[2]
    oldest, pinned = "0.10", "0.10.2"
    assert f'"jax>={oldest}"' in (root / "pyproject.toml").read_text()
    assert f"\njax=={pinned}\n" in (root / "constraints.txt").read_text()
    for file in (root / "jaxflow/_capture").glob("*.py"):
        assert "jax._src" not in file.read_text()


@pytest.mark.parametrize("name", ["unrolled_layers", "scan_over_layers", "late"])
def test_compiled_it_costs_what_returning_the_weights_by_hand_costs(name):
    def captured(*given):
        output, attention = capture(first(CASES[name]))(*given)
        return output, [site.weights for site in attention]

    def operations(function):
        text = jax.jit(function).lower(*ARGUMENTS).compile().as_text()
        return Counter(re.findall(r"= \S+ ([a-z-]+)\(", text))

    assert operations(captured) == operations(CASES[name])


@pytest.mark.nightly  # a time
def test_tracing_takes_at_most_twice_as_long():
    config = BertConfig(vocabulary=30, positions=16, hidden_width=24, layers=30, heads=4, width=16)
    params, module = init(config), make_module(config)

    def seconds(function):
        begin = time.perf_counter()
        jax.make_jaxpr(function)(params, TOKENS)
        return time.perf_counter() - begin

    plain = [seconds(lambda p, x: module.apply(p, x)) for _ in range(3)]
    captured = [seconds(capture(lambda p, x: module.apply(p, x))) for _ in range(3)]
    assert min(captured) <= 2 * min(plain) + 0.5


@pytest.mark.parametrize("style", ["dicts", "named", "state"])
def test_parameters_of_layers_in_lists_are_parameters(style):
    """One example without a batch axis: its heads are heads, and an edit of one leaves others."""
    rng = np.random.default_rng(0)
    layer = {name: rng.normal(0, 0.3, (8, 8)).astype(np.float32) for name in "qkv"}
    named = collections.namedtuple("Layer", "q k v")
    params = {"dicts": [layer], "named": named(**layer), "state": (layer, {})}[style]

    def run(params, x):
        each = params if style == "named" else named(**params[0])
        q, k, v = ((x @ w).reshape(-1, 2, 4) for w in each)
        weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", weights, v).reshape(x.shape)

    x = rng.normal(size=(5, 8)).astype(np.float32)
    output, attention = jaxflow.capture(run)(params, x)
    assert attention[0].weights.shape == (2, 5, 5)
    assert attention.stack().shape == (1, 2, 5, 5)
    off = jaxflow.intervene(run, lambda place, weights: weights.at[..., 0, :, :].set(0))
    changed = np.asarray(off(params, x)).reshape(5, 2, 4)
    assert not changed[:, 0].any()
    np.testing.assert_allclose(changed[:, 1], np.reshape(output, (5, 2, 4))[:, 1], atol=1e-6)


def test_half_precision_is_renormalised_in_float32():
    def run(x):
        scores = jnp.einsum("bqd,bkd->bqk", x, x)
        return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), x)

    x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(jnp.bfloat16)
    stacked = jaxflow.capture(run)(x)[1].stack(renormalise=True)
    np.testing.assert_allclose(stacked.sum(-1), 1, atol=1e-6)
    with pytest.raises(InputError, match="select must be a kind, a name"):
        jaxflow.capture(run, select=1.5)(x)
