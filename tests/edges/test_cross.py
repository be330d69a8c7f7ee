"""One graph through encoder and decoder, against networkx on its definition."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import Foreign
from cross_oracles import SIZES, joint_flows, joint_rollout, random_trace
from hypothesis import given
from hypothesis import strategies as st

import jaxflow
from jaxflow.edges import CROSS_AGGREGATORS, CROSS_EDGES, CrossTrace, aggregate_cross
from jaxflow.edges.cross import joint_stack
from jaxflow.errors import InputError

EXACT = 1e-9
HALF = (0.5, 0.5, 0.5)
KINDS = ("encoder", "decoder", "cross")


def changed(trace, **fields):
    return dataclasses.replace(trace, **fields)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("residual", [0.5, (0.3, 0.0, 0.8), (0.0, 0.6, 0.1)])
def test_flow_and_rollout_are_those_of_the_graph(size, causal, residual):
    trace = random_trace(len(repr((size, residual))), size, causal=causal)
    shares = residual if isinstance(residual, tuple) else (residual,) * 3
    flows = aggregate_cross(trace, how="flow", residual=residual)
    np.testing.assert_allclose(flows, joint_flows(trace, shares), rtol=0, atol=EXACT)
    rolled = aggregate_cross(trace, how="rollout", residual=residual)
    np.testing.assert_allclose(rolled, joint_rollout(trace, shares), rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [(2, 0), (0, 1), (2, 2)])
def test_padding_is_nowhere(padded, causal):
    size = (2, 3, (2, 1, 2), 5, 4)
    m, n = 5 - padded[0], 4 - padded[1]
    trace = random_trace(7, size, causal=causal, padded=padded)
    alone = CrossTrace(
        trace.encoder[..., :m, :m], trace.decoder[..., :n, :n], trace.cross[..., :n, :m]
    )
    columns = [*range(m), *range(5, 5 + n)]
    for how in CROSS_AGGREGATORS:
        found = aggregate_cross(trace, how=how)
        expected = np.zeros_like(found)
        expected[:, :n, columns] = aggregate_cross(alone, how=how)
        np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
        assert not found[..., m:5].any()
    np.testing.assert_allclose(
        aggregate_cross(trace, how="flow"), joint_flows(trace), rtol=0, atol=EXACT
    )


def test_a_token_whose_edges_sum_to_more_than_one_is_no_bottleneck():
    """All look at one token, in every layer: the edges into it sum to far more than 1."""
    n = m = 4
    first = np.zeros((3, 1, n, n))
    first[..., 0] = 1
    trace = CrossTrace(first, first, first)
    flows = aggregate_cross(trace, how="flow", residual=(0.5, 0.1, 0.5))
    np.testing.assert_allclose(flows, joint_flows(trace, (0.5, 0.1, 0.5)), rtol=0, atol=EXACT)
    stack = joint_stack(first[:, 0], first[:, 0], first[:, 0] / 2, np.full((3, n), 0.5))
    assert (stack.sum(-2)[3::2, m] == n).all()
    assert (stack.sum(-2)[4::2, 0] == 1 + n / 2).all()
    # What is not looked down for goes on to the decoder's first token, in full.
    up = aggregate_cross(trace, how="flow", residual=(0.5, 0.0, 1.0))
    np.testing.assert_allclose(up[..., m], 1, atol=EXACT)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    causal=st.booleans(),
    sharp=st.sampled_from([0.0, 2.0, 20.0]),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    pad=st.booleans(),
)
def test_what_rollout_and_flow_have_in_common(seed, size, causal, sharp, share, pad):
    _, lower, _, m, n = size
    padded = (min(1, m - 1), min(2, n - 1)) if pad else (0, 0)
    trace = random_trace(seed, size, causal=causal, padded=padded, sharp=sharp)
    rolled = aggregate_cross(trace, residual=(0.5, share, 0.5))
    flows = aggregate_cross(trace, how="flow", residual=(0.5, share, 0.5))
    assert rolled.shape == flows.shape == (lower, n, m + n)
    there = n - padded[1]
    np.testing.assert_allclose(rolled[:, :there].sum(-1), 1, rtol=0, atol=1e-12)
    assert not rolled[:, there:].any()
    # Rollout is itself a flow, so none is larger than the largest; nothing exceeds the source's 1.
    assert (flows >= rolled - EXACT).all()
    assert (flows <= 1 + EXACT).all()
    for found in (rolled, flows):
        assert not found[..., m - padded[0] : m].any()
        if causal:
            assert not np.triu(found[..., m:], 1).any()
    # Below one block a single path leads to each input token: its narrower edge is the flow.
    narrower = np.minimum(rolled[0, :, m:] / 0.5, 0.5)
    np.testing.assert_allclose(flows[0, :, m:], narrower, rtol=0, atol=EXACT)
    # The order of heads is nobody's business.
    order = {name: getattr(trace, name)[..., ::-1, :, :] for name in KINDS}
    for how, found in (("rollout", rolled), ("flow", flows)):
        again = aggregate_cross(changed(trace, **order), how=how, residual=(0.5, share, 0.5))
        np.testing.assert_allclose(again, found, rtol=0, atol=EXACT)


def test_without_cross_attention_or_without_self_attention_it_is_the_other_stack_alone():
    trace = random_trace(1, (3, 3, (2, 2, 2), 4, 4))
    lone = aggregate_cross(trace, how="rollout", residual=(0.5, 0.3, 1.0))
    assert not lone[..., :4].any()
    np.testing.assert_allclose(lone[..., 4:], jaxflow.rollout(trace.decoder, residual=0.3))
    flows = aggregate_cross(trace, how="flow", residual=(0.5, 0.3, 1.0))
    np.testing.assert_allclose(flows[..., 4:], jaxflow.flow(trace.decoder, residual=0.3))
    # Nothing kept in the block: cross-attention is one more layer on top of the encoder.
    down = aggregate_cross(trace, how="flow", residual=(0.5, 0.5, 0.0))[..., :4]
    eye = np.broadcast_to(np.eye(4), (1, 1, 4, 4))
    for block in range(3):
        edges = 0.5 * trace.encoder.mean(-3, keepdims=True) + 0.5 * eye
        stacked = np.concatenate([edges, trace.cross[[block]].mean(-3, keepdims=True)])
        np.testing.assert_allclose(down[block], jaxflow.flow(stacked, residual=0)[-1], atol=EXACT)


def test_sources_threads_and_batches_change_no_number():
    trace = random_trace(2, (2, 2, (2, 2, 2), 3, 5), padded=(1, 1), batch=(2, 3))
    for how in CROSS_AGGREGATORS:
        whole = aggregate_cross(trace, how=how)
        assert whole.shape == (2, 3, 2, 5, 8)
        np.testing.assert_array_equal(
            aggregate_cross(trace, how=how, sources=[3, -4], threads=2), whole[..., [3, 1], :]
        )
        np.testing.assert_array_equal(aggregate_cross(trace, how=how, sources=0), whole[..., :1, :])
        one = jax.tree.map(lambda leaf: leaf[1, 2], trace)
        np.testing.assert_allclose(aggregate_cross(one, how=how), whole[1, 2], atol=1e-12)


def test_raw_edges_are_attention_and_gradient_edges_what_it_moves():
    trace = random_trace(3, (2, 2, (2, 3, 2), 4, 3))
    beside = aggregate_cross(trace, how="none")
    np.testing.assert_allclose(beside[..., :4], trace.cross.mean(-3), atol=1e-12)
    np.testing.assert_allclose(beside[..., 4:], trace.decoder.mean(-3), atol=1e-12)
    moved = {
        name: np.maximum(getattr(trace, name) * getattr(trace, f"{name}_gradient"), 0)
        for name in KINDS
    }
    moved["cross"][1, :, 2] = 0  # a row of zeros is all residual
    gradient = trace.cross_gradient.copy()
    gradient[1, :, 2] = 0
    trace = changed(trace, cross_gradient=gradient)
    fused = {name: part.mean(-3, keepdims=True) for name, part in moved.items()}
    for how in CROSS_AGGREGATORS:
        found = aggregate_cross(trace, "gradient", how)
        for given_edges in (moved, fused):
            np.testing.assert_allclose(
                aggregate_cross(CrossTrace(**given_edges), "given", how), found, atol=EXACT
            )
    rolled = aggregate_cross(trace, "gradient")
    np.testing.assert_allclose(rolled.sum(-1), 1, atol=1e-12)
    looks = fused["decoder"][1, 0, 2]
    mixed = 0.5 * looks / looks.sum() + 0.5 * np.eye(3)[2]
    np.testing.assert_allclose(rolled[1, 2], mixed @ rolled[0], atol=1e-12)


def test_precision_and_place_of_arrays_are_kept():
    trace = random_trace(4, (2, 2, (2, 2, 2), 3, 4), padded=(1, 0))
    wanted = aggregate_cross(trace)
    assert isinstance(wanted, np.ndarray)
    assert wanted.dtype == np.float64
    single = jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else np.float32(leaf), trace)
    found = aggregate_cross(single)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    mixed = aggregate_cross(changed(single, decoder=trace.decoder))
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed, wanted, atol=1e-6)
    foreign = CrossTrace(*(Foreign(getattr(trace, name)) for name in KINDS), trace.source_mask)
    np.testing.assert_array_equal(aggregate_cross(foreign), wanted)

    device = jax.tree.map(jnp.asarray, single)
    assert isinstance(aggregate_cross(device), jax.Array)
    assert aggregate_cross(device, how="flow").dtype == np.float64
    compiled = jax.jit(lambda given: aggregate_cross(given, sources=[1]))
    np.testing.assert_allclose(compiled(device), wanted[:, [1]], atol=1e-6)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), device)
    np.testing.assert_allclose(jax.vmap(aggregate_cross)(several)[1], wanted, atol=1e-6)
    slope = jax.grad(lambda share: aggregate_cross(device, residual=share)[-1, 1, 0])(0.5)
    offset = [aggregate_cross(trace, residual=0.5 + step)[-1, 1, 0] for step in (-1e-5, 1e-5)]
    np.testing.assert_allclose(slope, (offset[1] - offset[0]) / 2e-5, rtol=1e-3)
    with pytest.raises(InputError, match="flow through two stacks needs values"):
        jax.jit(lambda given: aggregate_cross(given, how="flow"))(device)


def test_what_is_missing_is_named():
    trace = random_trace(5, (2, 2, (2, 2, 2), 3, 4))
    with pytest.raises(InputError, match=r"^rollout of raw edges needs cross-attention, which"):
        aggregate_cross(changed(trace, cross=None))
    with pytest.raises(
        InputError, match="needs the encoder's attention and the decoder's self-attention, which"
    ):
        aggregate_cross(changed(trace, encoder=None, decoder=None), how="flow")
    with pytest.raises(
        InputError, match="gradient edges needs the gradient with respect to cross-attention, which"
    ):
        aggregate_cross(changed(trace, cross_gradient=None), "gradient")


def test_what_does_not_fit_is_refused():
    trace = random_trace(6, (2, 3, (2, 2, 2), 3, 4))
    inexact = changed(trace, cross=trace.cross * 1.01)
    below_zero = trace.encoder.copy()
    below_zero[0, 0, 0, 0] -= 2
    cases = {
        "aggregator must be one of none, rollout, flow, got 'paths'": {"how": "paths"},
        f"edge weight must be one of {', '.join(CROSS_EDGES)}, got 'alti'": {"edge": "alti"},
        "residual must be a number or three, .* got 2 of them": {"residual": (0.5, 0.5)},
        "residual must be a number from 0 to 1, got 2": {"residual": (0.5, 2, 0.5)},
        "sources must be an index from -4 to 3, got 4": {"sources": 4},
        "cross's rows .* off by 0.01": {"trace": inexact},
        "encoder must not be negative": {"trace": changed(trace, encoder=below_zero)},
        "cross must be finite": {"trace": changed(trace, cross=trace.cross * np.nan)},
        r"decoder must have the shape \(3, 4, 4\)": {
            "trace": changed(trace, decoder=trace.encoder)
        },
        r"decoder .* got \(2, 2, 4, 4\)": {"trace": changed(trace, decoder=trace.decoder[:2])},
        r"encoder .* without an empty axis": {"trace": changed(trace, encoder=trace.encoder[0])},
        "decoder must be float32 or float64": {
            "trace": changed(trace, decoder=trace.decoder.astype(np.float16))
        },
        r"source_mask must be boolean, .* of shape \(3,\)": {
            "trace": changed(trace, source_mask=np.ones(4, bool))
        },
        r"target_mask must be boolean": {"trace": changed(trace, target_mask=np.ones(4))},
        "encoder must hold exactly 0 at the keys that the mask": {
            "trace": changed(trace, source_mask=np.array([True, True, False]))
        },
        r"cross_gradient must have cross's shape": {
            "trace": changed(trace, cross_gradient=trace.cross_gradient[:1]),
            "edge": "gradient",
        },
        "decoder_gradient must be finite": {
            "trace": changed(trace, decoder_gradient=trace.decoder * np.inf),
            "edge": "gradient",
        },
    }
    for words, options in cases.items():
        with pytest.raises(InputError, match=words):
            aggregate_cross(**({"trace": trace} | options))
    aggregate_cross(inexact, "given")  # edges need not sum to 1
