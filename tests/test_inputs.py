"""Test arrays of other libraries, NaN, negative sources of padded texts, and calls under jit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from attentions import Foreign, attention_of
from cross_oracles import random_trace as random_cross
from edge_oracles import random_trace

import jaxflow
from jaxflow import edges
from jaxflow.errors import InputError
from jaxflow.eval.io.npz import read_npz

LAYERS, HEADS, N = 3, 2, 4
#: A batch of as many texts as layers, so that a stack on the wrong axis has the right shape.
BATCH = attention_of("dense", 5, (LAYERS, LAYERS, HEADS, N, N))
ONE = BATCH[0]
TORCH = pytest.importorskip("torch")

# Functions of one attention of several texts, and those of one text.
SEVERAL: dict[str, Callable[..., Any]] = {
    "raw_attention": jaxflow.raw_attention,
    "rollout": jaxflow.rollout,
    "head_rollout": jaxflow.head_rollout,
    "discard": lambda attention: jaxflow.discard(attention, 0.5),
    "widen": jaxflow.widen,
    "flow": jaxflow.flow,
    "head_flow": jaxflow.head_flow,
    "saturation": jaxflow.saturation,
    "weigh": lambda attention: edges.weigh(edges.Trace(attention), "raw"),
    "aggregate": lambda attention: edges.aggregate(edges.Trace(attention), "discard-0.5"),
    "aggregate-flow": lambda attention: edges.aggregate(edges.Trace(attention), "raw", "flow"),
    "gradient": lambda attention: edges.weigh(
        edges.Trace(attention, gradient=attention), "gradient"
    ),
    "aggregate_cross": lambda attention: edges.aggregate_cross(
        edges.CrossTrace(attention, attention, attention)
    ),
    "cross_relevance": lambda attention: edges.cross_relevance(
        edges.CrossTrace(*[attention] * 3, None, None, *[attention] * 3)
    ),
}
SINGLE: dict[str, Callable[..., Any]] = {
    "flow_cut": lambda attention: jaxflow.flow_cut(attention, layer=-1, source=0, sink=1),
    "attention_graph": lambda attention: sorted(
        jaxflow.attention_graph(attention).edges(data="capacity")
    ),
    "show": lambda attention: len(jaxflow.show(attention).html),
}
EVERY = SEVERAL | SINGLE


def layers_of(attention: np.ndarray) -> list[np.ndarray]:
    return [attention[..., layer, :, :, :] for layer in range(attention.shape[-4])]


@pytest.mark.parametrize("name", EVERY)
def test_a_list_of_layers_is_stacked_on_the_layer_axis(name: str) -> None:
    function, attention = EVERY[name], BATCH if name in SEVERAL else ONE
    wanted, layers = function(attention), layers_of(attention)
    tensors = tuple(TORCH.tensor(layer, requires_grad=True) for layer in layers)
    for given in (layers, tuple(Foreign(layer) for layer in layers), tensors):
        jax.tree.map(np.testing.assert_array_equal, function(given), wanted)


def test_attentions_of_transformers_are_layers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    config._attn_implementation = "eager"
    TORCH.manual_seed(0)
    model = transformers.BertModel(config).eval()  # without dropout
    ids = TORCH.tensor([[1, 2, 3, 4], [4, 5, 6, 7]])  # as many texts as layers
    attentions = model(ids, output_attentions=True).attentions
    steps = [layer.detach().numpy().mean(1) / 2 + np.eye(4) / 2 for layer in attentions]
    wanted = steps[1] @ steps[0]
    np.testing.assert_allclose(jaxflow.rollout(attentions)[:, 1], wanted, atol=1e-6)
    # For one text it returns a batch of one: there is a batch axis only where the mask has one.
    alone = tuple(layer[:1] for layer in attentions)
    np.testing.assert_allclose(jaxflow.rollout(alone)[1], wanted[0], atol=1e-6)
    np.testing.assert_allclose(
        jaxflow.rollout(alone, mask=np.ones((1, 4), bool))[:, 1], wanted[:1], atol=1e-6
    )
    jaxflow.show(alone, mask=np.ones(4, bool))


def test_every_field_of_a_trace_may_be_a_list_of_layers() -> None:
    trace, outputs = random_trace(0, norm_first=False)
    fields = {name: list(getattr(trace, name)) for name in ("attention", "vectors", "stream")}
    listed = dataclasses.replace(trace, **fields)
    np.testing.assert_allclose(edges.reconstruction(listed), outputs, rtol=1e-4, atol=1e-5)
    texts = dataclasses.replace(trace, attention=BATCH[:, :2], vectors=np.ones((3, 2, 2, 4, 3)))
    hidden = dataclasses.replace(texts, stream=tuple(np.ones((3, 4, 6)) for _ in range(2)))
    with pytest.raises(InputError, match=r"stream must have the shape \(3, 3, 4, None\)"):
        edges.reconstruction(hidden)


UNUSABLE: list[tuple[Any, str]] = [
    (None, 'got NoneType: load the model with attn_implementation="eager"'),
    ((None, None), r"\[0\] is None, as of a fused kernel.* attn_implementation=\"eager\""),
    ((ONE[0], None), r"\[1\] is None, as of a fused kernel"),
    ((), "must hold at least one layer"),
    ((ONE[0], ONE[1], ONE[2][:, :3, :3]), r"\(2, 3, 3\) at index 2 after float64 \(2, 4, 4\)"),
    ((ONE[0], ONE[1][:1]), r"\(1, 4, 4\) at index 1 after float64 \(2, 4, 4\)"),
    ((ONE[0], ONE[1].astype(np.float32)), r"float32 .* at index 1 after float64"),
    ((layers_of(ONE), layers_of(ONE)), r"one list of layers, got a list of lists, as generate\(\)"),
    (TORCH.empty(1, 1, 2, 2, device="meta"), "cannot be read as an array: .* no data"),
    (TORCH.ones(1, 1, 2, 2).to_sparse(), "cannot be read as an array: .* layout"),
]


@pytest.mark.parametrize(("attention", "complaint"), UNUSABLE)
def test_layers_that_do_not_stack_are_named(attention: Any, complaint: str) -> None:
    for name in ("rollout", "flow", "widen", "show", "weigh"):
        with pytest.raises(InputError, match="attention.*" + complaint):
            EVERY[name](attention)
    if attention is not None:
        with pytest.raises(InputError, match="cross.*" + complaint):
            edges.aggregate_cross(edges.CrossTrace(ONE, ONE, attention))


def halves(tmp_path: Any) -> dict[str, Any]:
    half = ONE.astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "half.npz", attention=half)
    tensor = TORCH.tensor(ONE)
    return {
        "torch bfloat16": tensor.bfloat16().requires_grad_(),
        "torch layers": tuple(tensor.bfloat16()),
        "torch float16": tensor.half(),
        "ml_dtypes": half,
        "npz of NumPy": np.load(tmp_path / "half.npz")["attention"],
        "npz": read_npz(tmp_path / "half.npz")["attention"],
    }


def test_half_precision_of_other_libraries_is_refused_with_the_way_in_and_widened(
    tmp_path: Any,
) -> None:
    with np.errstate(all="raise"):
        for name, given in halves(tmp_path).items():
            dtype = ml_dtypes.bfloat16 if "16" not in name or "b" in name else np.float16
            rounded = ONE.astype(dtype).astype(np.float64)
            wanted = jaxflow.rollout(rounded / rounded.sum(-1, keepdims=True))
            for function in EVERY.values():
                if function is not jaxflow.widen:
                    with pytest.raises(
                        InputError, match=r"float16: jaxflow\.widen makes it float32"
                    ):
                        function(given)
            wide = jaxflow.widen(given)
            assert wide.dtype == np.float32, name
            np.testing.assert_allclose(jaxflow.rollout(wide), wanted, atol=1e-6, err_msg=name)
    # Converted to float32 before, the rows are still off by the rounding.
    single = TORCH.tensor(ONE).bfloat16().float()
    for function in (jaxflow.rollout, jaxflow.flow, EVERY["weigh"]):
        with pytest.raises(InputError, match=r"must sum to 1 .* jaxflow\.widen divides rows by"):
            function(single)
    rounded = single.double().numpy()
    wanted = jaxflow.rollout(rounded / rounded.sum(-1, keepdims=True))
    np.testing.assert_allclose(jaxflow.rollout(jaxflow.widen(single)), wanted, atol=1e-6)
    assert jaxflow.widen(single.double()).dtype == np.float64


def test_attention_after_dropout_is_refused_with_its_cure() -> None:
    TORCH.manual_seed(0)
    dropped = TORCH.nn.functional.dropout(TORCH.tensor(ONE), 0.1)
    for function in (jaxflow.rollout, jaxflow.flow, jaxflow.widen):
        with pytest.raises(InputError, match=r"must sum to 1 .* dropout off \(model\.eval\(\)\)"):
            function(dropped)


# --- what is not a number


def broken() -> np.ndarray:
    attention = BATCH.copy()
    attention[2, 1, 0, 3, 1] = np.nan
    return attention


@pytest.mark.parametrize("name", sorted(SEVERAL.keys() - {"widen"}))
@pytest.mark.parametrize("namespace", [np, jnp])
def test_nan_is_refused_with_its_layer_and_row(name: str, namespace: Any) -> None:
    words = "must be finite, .*sentence 2, layer 1, head 0, row 3"
    with pytest.raises(InputError, match=words):
        SEVERAL[name](namespace.asarray(broken(), np.float32))


def test_nan_of_any_field_of_a_trace_is_refused_with_its_layer() -> None:
    trace, _ = random_trace(1, norm_first=False)
    for field, edge in (("vectors", "alti"), ("stream", "norm"), ("gradient", "gradient")):
        values = np.array(getattr(trace, field) if field != "gradient" else trace.attention)
        values[1] = np.nan
        with pytest.raises(InputError, match=f"{field} must be finite.*layer 1"):
            edges.aggregate(dataclasses.replace(trace, **{field: values}), edge)


def test_nan_stays_nan_in_every_edge_weight() -> None:
    """Where values are not known, as under jit: here the definitions are called without a check."""
    trace, _ = random_trace(1, norm_first=True)
    special = np.zeros(trace.attention.shape[-1], bool)
    special[0] = True
    trace = dataclasses.replace(
        trace, special=special, gradient=trace.attention, relevance=trace.attention
    )
    fields = {}
    for name in ("attention", "gradient", "relevance"):
        fields[name] = np.array(getattr(trace, name))
        fields[name][1, :, 2] = np.nan  # layer 1, row 2
    for name, values in (("vectors", trace.vectors), ("stream", trace.stream)):
        fields[name] = np.array(values)
        fields[name][1, ..., 2, :] = np.nan
    undefined = dataclasses.replace(trace, **fields)
    for edge in edges.edge_weights(1).values():
        # The public function `discard` checks what it can see.
        weigh = jax.jit(edge.weigh) if edge.name.startswith("discard") else edge.weigh
        found = np.asarray(weigh(undefined))
        assert np.isnan(found[1, 2]).any(), edge.name
        assert not np.isnan(np.asarray(edge.weigh(trace))).any(), edge.name
    parts = jax.jit(edges.propagation("decompx").follow)(undefined)
    assert np.isnan(np.asarray(parts)[1, 2]).any()


def test_nan_stays_nan_in_every_aggregator_and_in_gradients() -> None:
    attention = jnp.asarray(broken()[2], jnp.float32)
    for how in edges.AGGREGATORS:
        for residual in (0.5, 1.0):
            call = lambda given, how=how, share=residual: edges.aggregate(  # noqa: E731
                edges.Trace(given), "raw", how, residual=share
            )
            found = np.asarray(jax.jit(call)(attention))
            assert np.isnan(found[1, 3]).any(), how
            if how != "none":
                assert np.isnan(found[2]).all(-1).any(), how
    functions = (jaxflow.rollout, jaxflow.flow, lambda given: jaxflow.discard(given, 0.5))
    for function in functions:
        assert np.isnan(np.asarray(jax.jit(function)(attention))[1]).any()
    slope = jax.jit(jax.grad(lambda given: jaxflow.flow(given)[-1, 0, 1]))(attention)
    assert np.isnan(np.asarray(slope)).any()
    noisy = jaxflow.smooth_grad(
        lambda given: given[..., 0, 0] ** 2,
        jnp.asarray([[1.0, 2.0], [jnp.nan, 1.0]]),
        jax.random.key(0),
        2,
    )
    assert np.isnan(noisy[0])


# --- sources that count from each text's end

LENGTHS = np.array([4, 2, 3])
MASK = np.arange(N) < LENGTHS[:, None]
PADDED = BATCH * MASK[:, None, None, None, :]
PADDED = np.where(MASK[:, None, None, :, None], PADDED, 1.0)
PADDED /= PADDED.sum(-1, keepdims=True)


def test_negative_sources_count_from_the_end_of_each_text() -> None:
    trace = edges.Trace(PADDED.astype(np.float32), MASK)
    cross = edges.CrossTrace(PADDED, PADDED, PADDED, MASK, MASK, PADDED, PADDED, PADDED)
    calls: dict[str, Callable[..., Any]] = {
        "rollout": lambda **given: jaxflow.rollout(PADDED, mask=MASK, **given),
        "flow": lambda **given: jaxflow.flow(PADDED, mask=MASK, **given),
        "head_flow": lambda **given: np.moveaxis(
            jaxflow.head_flow(PADDED, mask=MASK, **given), -3, 1
        ),
        "saturation": lambda **given: jaxflow.saturation(PADDED, mask=MASK, **given).reached,
        "aggregate": lambda **given: edges.aggregate(trace, **given),
        "aggregate-flow": lambda **given: edges.aggregate(trace, "head-1", "flow", **given),
        "cross": lambda **given: edges.aggregate_cross(cross, **given),
        "cross-flow": lambda **given: edges.aggregate_cross(cross, how="flow", **given),
        "relevance": lambda **given: edges.cross_relevance(cross, **given),
    }
    for name, call in calls.items():
        whole, found = np.asarray(call()), np.asarray(call(sources=[-1, 0, -2]))
        for text, length in enumerate(LENGTHS):
            wanted = whole[text][..., [length - 1, 0, length - 2], :]
            np.testing.assert_allclose(found[text], wanted, atol=1e-6, err_msg=name)
        with pytest.raises(InputError, match="every text, got -3 for a text of 2 tokens"):
            call(sources=[0, -3])
    jitted = jax.jit(lambda given, mask: jaxflow.rollout(given, mask=mask, sources=[-1, -3]))
    flows = jax.jit(lambda given, mask: jaxflow.flow(given, mask=mask, sources=[-1, -3]))
    for function, name in ((jitted, "rollout"), (flows, "flow")):
        found, whole = np.asarray(function(jnp.asarray(PADDED, jnp.float32), MASK)), calls[name]()
        for text, length in enumerate(LENGTHS):
            np.testing.assert_allclose(found[text, :, 0], whole[text][:, length - 1], atol=1e-6)
        assert np.isnan(found[1, :, 1]).all()
        assert not np.isnan(found[[0, 2]]).any()
    cut = jaxflow.flow_cut(PADDED[1], layer=-1, source=-1, sink=-2, mask=MASK[1])
    assert cut.value == pytest.approx(calls["flow"]()[1, -1, 1, 0], abs=1e-9)


def test_normalised_rows_belong_to_each_text() -> None:
    causal = np.tri(N) * PADDED
    causal /= causal.sum(-1, keepdims=True)
    causal = np.where(MASK[:, None, None, None, :], causal, 0).astype(np.float32)
    trace = edges.Trace(causal, MASK)
    rows = edges.normalise(edges.aggregate(trace, sources=-1), sources=-1, mask=MASK)
    whole = np.asarray(edges.normalise(edges.aggregate(trace)))
    for text, length in enumerate(LENGTHS):
        np.testing.assert_allclose(rows[text, :, 0], whole[text, :, length - 1], rtol=1e-5)
    with pytest.raises(InputError, match=r"mask must be boolean of shape .* padding at the end"):
        edges.normalise(whole, mask=MASK[:, ::-1])


@pytest.mark.parametrize("sources", [0, [2, -1], None])
@pytest.mark.parametrize("function", [jaxflow.rollout, jaxflow.head_rollout])
def test_rollout_of_some_rows_is_that_of_all(function: Any, sources: Any) -> None:
    whole, some = function(BATCH), function(BATCH, sources=sources)
    rows = range(N) if sources is None else np.atleast_1d(sources)
    np.testing.assert_allclose(some, whole[..., list(rows), :], atol=1e-14)


def test_traced_sources_may_differ_between_texts() -> None:
    device, rows = jnp.asarray(BATCH, jnp.float32), jnp.array([[0], [3], [1]])
    call = jax.jit(lambda given, rows: jaxflow.rollout(given, sources=rows))
    whole = jaxflow.rollout(BATCH)
    for given in (rows, rows[:, 0]):  # a row of each text, and three rows of every text
        found = call(device, given)
        wanted = [whole[text][:, np.atleast_1d(row)] for text, row in enumerate(rows)]
        wanted = wanted if given.ndim == 2 else whole[:, :, np.asarray(given)]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


# --- dtypes


def test_flow_of_a_jax_array_is_one_of_its_dtype_and_never_above_the_bound() -> None:
    for seed in range(20):
        attention = attention_of("dense", seed, (3, 1, 9, 9)).astype(np.float32)
        exact, device = jaxflow.flow(attention), jnp.asarray(attention)
        bound = np.minimum(1, (attention[0, 0].astype(np.float64) / 2 + np.eye(9) / 2).sum(0))
        for found in (jaxflow.flow(device), jax.jit(jaxflow.flow)(device)):
            assert isinstance(found, jax.Array)
            assert found.dtype == jnp.float32
            values = np.asarray(found, np.float64)
            assert (values <= bound).all()
            np.testing.assert_allclose(values, exact, rtol=2**-23)
    with jax.enable_x64(True):
        found = jaxflow.flow(jnp.asarray(ONE))
        assert found.dtype == jnp.float64
        np.testing.assert_array_equal(found, jaxflow.flow(ONE))
        assert jax.jit(jaxflow.flow)(device).dtype == jnp.float32


# --- every function under jit

TRACE = random_trace(0, norm_first=True)[0]
CROSS = jax.tree.map(np.float32, random_cross(0, (2, 2, (2, 2, 2), 3, 4)))
EMBEDDINGS = np.ones((3, 2), np.float32)
SCORE = lambda given: given.sum((-2, -1))  # noqa: E731
PREDICT = lambda rows: jnp.ones((len(rows), 2)) * rows[:, :1]  # noqa: E731
READOUT = edges.Readout(np.ones((TRACE.stream.shape[-1], 2), np.float32))
SINGLE32 = ONE.astype(np.float32)
UNDER_JIT: dict[str, tuple[Callable[..., Any], Any, bool]] = {
    "attention_graph": (jaxflow.attention_graph, SINGLE32, False),
    "blank_out": (lambda given: jaxflow.blank_out(PREDICT, given, 0), np.ones(3, int), True),
    "completeness_gap": (
        lambda given: jaxflow.completeness_gap(SCORE, given, given[:, 0]), EMBEDDINGS, True
    ),
    "discard": (lambda given: jaxflow.discard(given, 0.5), SINGLE32, True),
    "flow": (jaxflow.flow, SINGLE32, True),
    "flow_cut": (SINGLE["flow_cut"], SINGLE32, False),
    "gradient_norm": (lambda given: jaxflow.gradient_norm(SCORE, given), EMBEDDINGS, True),
    "gradient_x_input": (lambda given: jaxflow.gradient_x_input(SCORE, given), EMBEDDINGS, True),
    "head_flow": (jaxflow.head_flow, SINGLE32, False),
    "head_rollout": (jaxflow.head_rollout, SINGLE32, True),
    "input_gradient": (lambda given: jaxflow.input_gradient(SCORE, given), EMBEDDINGS, True),
    "integrated_gradients": (
        lambda given: jaxflow.integrated_gradients(SCORE, given), EMBEDDINGS, True
    ),
    "raw_attention": (jaxflow.raw_attention, SINGLE32, True),
    "remove": (lambda given: jaxflow.remove(given, given > 2, "attention"), np.arange(4), True),
    "remove_out": (
        lambda given: jaxflow.remove_out(lambda rows, _: PREDICT(rows), given, "attention"),
        np.ones(3, int),
        True,
    ),
    "rollout": (jaxflow.rollout, SINGLE32, True),
    "rollout_rows": (
        lambda given: jaxflow.rollout_rows([jaxflow.QueryKey(*given[:2], causal=True)]),
        SINGLE32,
        True,
    ),
    "saturation": (jaxflow.saturation, SINGLE32, False),
    "show": (jaxflow.show, SINGLE32, False),
    "smooth_grad": (
        lambda given: jaxflow.smooth_grad(SCORE, given, jax.random.key(0)), EMBEDDINGS, True
    ),
    "spearman": (lambda given: jaxflow.spearman(given, given), EMBEDDINGS, True),
    "widen": (jaxflow.widen, SINGLE32.astype(np.float16), True),
    "aggregate": (lambda given: edges.aggregate(given, "alti", "flow"), TRACE, True),
    "aggregate (head)": (lambda given: edges.aggregate(given, "head-1", "flow"), TRACE, True),
    "aggregate_cross": (edges.aggregate_cross, CROSS, True),
    "aggregate_cross (flow)": (
        lambda given: edges.aggregate_cross(given, how="flow"), CROSS, False
    ),
    "class_attributions": (
        lambda given: edges.class_attributions(given, READOUT), TRACE, True
    ),
    "cross_relevance": (edges.cross_relevance, CROSS, True),
    "normalise": (lambda given: edges.normalise(given.mean(-3)), SINGLE32, True),
    "normalise (mask)": (
        lambda given: edges.normalise(np.ones((1, 4, 4)), mask=given), np.ones(4, bool), False
    ),
    "propagate": (lambda given: edges.propagate(given, "decompx"), TRACE, True),
    "receptive_field": (
        lambda given: edges.receptive_field(3, 2, residual=given), np.float32(0.5), False
    ),
    "reconstruction": (edges.reconstruction, TRACE, True),
    "weigh": (lambda given: edges.weigh(given, "effective"), TRACE, True),
}  # fmt: skip
#: Functions of names and numbers alone.
LISTS = {"edge_families", "edge_weight", "edge_weights", "propagation", "propagations"}


def test_the_table_holds_every_function() -> None:
    public = {
        name
        for package in (jaxflow, edges)
        for name in package.__all__
        if inspect.isfunction(getattr(package, name))
    }
    transformations = {"capture", "capture_torch", "explain", "intervene", "attention_gradient"}
    assert public - LISTS - transformations == {name.split(" ")[0] for name in UNDER_JIT}


@pytest.mark.parametrize("name", UNDER_JIT)
def test_every_function_runs_under_jit_or_says_that_it_does_not(name: str) -> None:
    function, given, works = UNDER_JIT[name]
    if works:
        jax.eval_shape(function, given)
        return
    with pytest.raises(InputError, match=r"needs values and cannot run inside jit, vmap or grad"):
        jax.eval_shape(function, given)
