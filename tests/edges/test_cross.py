"""Test encoder-decoder graphs against networkx, and relevance against the paper's matrices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import Foreign
from cross_oracles import SIZES, joint, random_trace, relevance
from session import refused

import jaxflow
from jaxflow.edges import (
    CROSS_AGGREGATORS,
    CROSS_EDGES,
    CrossTrace,
    Trace,
    aggregate,
    aggregate_cross,
    cross_relevance,
)
from jaxflow.edges.cross import joint_stack

EXACT = 1e-9
KINDS = ("encoder", "decoder", "cross")


def changed(trace, **fields):
    return dataclasses.replace(trace, **fields)


@pytest.mark.parametrize("size", SIZES)
def test_flow_rollout_and_relevance_are_those_of_the_definitions(size):
    for causal, shares in ((False, (0.5, 0.5, 0.5)), (True, (0.3, 0.0, 0.8))):
        padded = (min(1, size[3] - 1), min(2, size[4] - 1)) if causal else (0, 0)
        trace = random_trace(len(repr(size)), size, causal=causal, padded=padded)
        flows = aggregate_cross(trace, how="flow", residual=shares)
        rolled = aggregate_cross(trace, residual=shares)
        largest, sums = joint(trace, shares)
        np.testing.assert_allclose(flows, largest, rtol=0, atol=EXACT)
        np.testing.assert_allclose(rolled, sums, rtol=0, atol=1e-12)
        np.testing.assert_allclose(cross_relevance(trace), relevance(trace), rtol=1e-10)
        # Rollout is itself a flow, so none is larger than the largest.
        assert (flows >= rolled - EXACT).all()
        assert (flows <= 1 + EXACT).all()
        order = {name: getattr(trace, name)[..., ::-1, :, :] for name in KINDS}
        again = aggregate_cross(changed(trace, **order), residual=shares)
        np.testing.assert_allclose(again, rolled, rtol=0, atol=EXACT)


@pytest.mark.parametrize("padded", [(2, 0), (2, 2)])
def test_padding_and_batches_change_nothing(padded):
    m, n = 5 - padded[0], 4 - padded[1]
    trace = random_trace(7, (2, 3, (2, 1, 2), 5, 4), causal=True, padded=padded, batch=(2,))
    sizes = {"encoder": (m, m), "decoder": (n, n), "cross": (n, m)}
    alone = CrossTrace(
        **{
            f"{name}{end}": getattr(trace, f"{name}{end}")[1][..., :query, :key]
            for name, (query, key) in sizes.items()
            for end in ("", "_gradient")
        }
    )
    columns = [*range(m), *range(5, 5 + n)]
    calls = [functools.partial(aggregate_cross, how=how) for how in CROSS_AGGREGATORS]
    for call in (*calls, cross_relevance):
        found = call(trace)
        assert found.shape == (2, 3, 4, 9)
        expected = np.zeros_like(found[1])
        expected[:, :n, columns] = call(alone)
        np.testing.assert_allclose(found[1], expected, rtol=0, atol=EXACT)
        some = call(trace, sources=[1, -1])  # each text's own last token
        np.testing.assert_array_equal(some[1], found[1][..., [1, n - 1], :])
        np.testing.assert_array_equal(call(trace, sources=0), found[..., :1, :])


def test_a_token_whose_edges_sum_to_more_than_one_is_no_bottleneck():
    """All attend to one token, in every layer: the edges into it sum to far more than 1."""
    n = m = 4
    first = np.zeros((3, 1, n, n))
    first[..., 0] = 1
    trace = CrossTrace(first, first, first)
    flows = aggregate_cross(trace, how="flow", residual=(0.5, 0.1, 0.5))
    np.testing.assert_allclose(flows, joint(trace, (0.5, 0.1, 0.5))[0], rtol=0, atol=EXACT)
    stack = joint_stack(first[:, 0], first[:, 0], first[:, 0] / 2, np.full((3, n), 0.5))
    assert (stack.sum(-2)[3::2, m] == n).all()
    assert (stack.sum(-2)[4::2, 0] == 1 + n / 2).all()
    # Without cross-attention everything goes on to the decoder's first token.
    up = aggregate_cross(trace, how="flow", residual=(0.5, 0.0, 1.0))
    np.testing.assert_allclose(up[..., m], 1, atol=EXACT)


def test_without_cross_attention_or_without_self_attention_it_is_the_other_stack_alone():
    trace = random_trace(1, (3, 3, (2, 2, 2), 4, 4))
    lone = aggregate_cross(trace, residual=(0.5, 0.3, 1.0))
    assert not lone[..., :4].any()
    np.testing.assert_allclose(lone[..., 4:], jaxflow.rollout(trace.decoder, residual=0.3))
    flows = aggregate_cross(trace, how="flow", residual=(0.5, 0.3, 1.0))
    np.testing.assert_allclose(flows[..., 4:], jaxflow.flow(trace.decoder, residual=0.3))
    # Without a residual connection cross-attention is one more layer on top of the encoder.
    down = aggregate_cross(trace, how="flow", residual=(0.5, 0.5, 0.0))[..., :4]
    eye = np.broadcast_to(np.eye(4), (1, 1, 4, 4))
    for block in range(3):
        edges = 0.5 * trace.encoder.mean(-3, keepdims=True) + 0.5 * eye
        stacked = np.concatenate([edges, trace.cross[[block]].mean(-3, keepdims=True)])
        np.testing.assert_allclose(down[block], jaxflow.flow(stacked, residual=0)[-1], atol=EXACT)


def test_edges_are_attention_or_its_positive_product_with_the_gradient_or_as_given():
    trace = random_trace(3, (2, 2, (2, 3, 2), 4, 3))
    beside = aggregate_cross(trace, how="none")
    np.testing.assert_allclose(beside[..., :4], trace.cross.mean(-3), atol=1e-12)
    np.testing.assert_allclose(beside[..., 4:], trace.decoder.mean(-3), atol=1e-12)
    gradient = trace.cross_gradient.copy()
    gradient[1, :, 2] = 0  # a row of zeros is all residual
    trace = changed(trace, cross_gradient=gradient)
    moved = {
        name: np.maximum(getattr(trace, name) * getattr(trace, f"{name}_gradient"), 0)
        for name in KINDS
    }
    fused = {name: part.mean(-3, keepdims=True) for name, part in moved.items()}
    for how in CROSS_AGGREGATORS:
        found = aggregate_cross(trace, "gradient", how)
        np.testing.assert_allclose(
            aggregate_cross(CrossTrace(**fused), "given", how), found, atol=EXACT
        )
    rolled = aggregate_cross(trace, "gradient")
    np.testing.assert_allclose(rolled.sum(-1), 1, atol=1e-12)
    looks = fused["decoder"][1, 0, 2]
    mixed = 0.5 * looks / looks.sum() + 0.5 * np.eye(3)[2]
    np.testing.assert_allclose(rolled[1, 2], mixed @ rolled[0], atol=1e-12)
    # Relevance of the decoder's own tokens is the sum of paths through self-attention.
    own = Trace(trace.decoder, gradient=trace.decoder_gradient)
    with jax.enable_x64(True):
        paths = np.asarray(aggregate(own, "gradient", "paths"))
    np.testing.assert_allclose(cross_relevance(trace)[..., 4:], paths, rtol=1e-10)


def test_gradients_lost_beside_one_are_still_normalised():
    trace = random_trace(2, (2, 2, (2, 2, 2), 4, 3))
    tiny = {f"{name}_gradient": 1e-9 * getattr(trace, f"{name}_gradient") for name in KINDS}
    found = cross_relevance(jax.tree.map(np.float32, changed(trace, **tiny)))
    assert found.dtype == np.float32
    # Normalised rows of R - I do not depend on the gradients' size to first order, so the source's
    # relevance grows with it. The loops get gradients that float64 does not lose.
    larger = {name: 1e4 * gradient for name, gradient in tiny.items()}
    expected = 1e-4 * relevance(changed(trace, **larger))
    np.testing.assert_allclose(found[..., :4], expected[..., :4], rtol=1e-4)


def test_precision_and_place_of_arrays_are_kept():
    trace = random_trace(4, (2, 2, (2, 2, 2), 3, 4), padded=(1, 0))
    wanted = aggregate_cross(trace)
    assert (type(wanted), wanted.dtype) == (np.ndarray, np.float64)
    single = jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else np.float32(leaf), trace)
    found = aggregate_cross(single)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert aggregate_cross(changed(single, decoder=trace.decoder)).dtype == np.float64
    foreign = CrossTrace(*(Foreign(getattr(trace, name)) for name in KINDS), trace.source_mask)
    np.testing.assert_array_equal(aggregate_cross(foreign), wanted)
    device = jax.tree.map(jnp.asarray, single)
    assert isinstance(aggregate_cross(device), jax.Array)
    compiled = jax.jit(lambda given: aggregate_cross(given, sources=[1]))
    np.testing.assert_allclose(compiled(device), wanted[:, [1]], atol=1e-6)
    slope = jax.grad(lambda share: aggregate_cross(device, residual=share)[-1, 1, 0])(0.5)
    offset = [aggregate_cross(trace, residual=0.5 + step)[-1, 1, 0] for step in (-1e-5, 1e-5)]
    np.testing.assert_allclose(slope, (offset[1] - offset[0]) / 2e-5, rtol=1e-3)
    with refused("flow through two stacks needs values"):
        jax.jit(lambda given: aggregate_cross(given, how="flow"))(device)


def test_unusable_input_is_named():
    trace = random_trace(6, (2, 3, (2, 2, 2), 3, 4))
    inexact = changed(trace, cross=trace.cross * 1.01)
    negative = trace.encoder - 2 * np.eye(3)
    gradients = {"edge": "gradient"}
    fields = {
        "needs cross-attention, which": {"cross": None},
        "encoder must not be negative": {"encoder": negative},
        "cross must be finite": {"cross": trace.cross * np.nan},
        r"decoder must have the shape \(3, 4, 4\)": {"decoder": trace.encoder},
        r"encoder .* without an empty axis": {"encoder": trace.encoder[0]},
        "decoder must be float32": {"decoder": trace.decoder.astype(np.float16)},
        r"source_mask must be boolean, .* of shape \(3,\)": {"source_mask": np.ones(4, bool)},
        "encoder must hold exactly 0 at": {"source_mask": np.array([True, True, False])},
    }
    cases = {words: {"trace": changed(trace, **given)} for words, given in fields.items()} | {
        "aggregator must be one of none, rollout, flow, got 'paths'": {"how": "paths"},
        f"edge weight must be one of {', '.join(CROSS_EDGES)}, got 'alti'": {"edge": "alti"},
        "residual must be a number or three, .* got 2 of them": {"residual": (0.5, 0.5)},
        "residual must be a number from 0 to 1, got 2": {"residual": (0.5, 2, 0.5)},
        "sources must be an index from -4 to 3, got 4": {"sources": 4},
        "cross rows .* off by 0.01": {"trace": inexact},
        "needs the gradient with respect to cross-attention, which": gradients
        | {"trace": changed(trace, cross_gradient=None)},
        "cross_gradient must have cross's shape": gradients
        | {"trace": changed(trace, cross_gradient=trace.cross_gradient[:1])},
        "decoder_gradient must be finite": gradients
        | {"trace": changed(trace, decoder_gradient=trace.decoder * np.inf)},
    }
    for words, options in cases.items():
        with refused(words):
            aggregate_cross(**({"trace": trace} | options))
    aggregate_cross(inexact, "given")  # edges need not sum to 1
