"""Effective attention, against null spaces by SciPy and against what heads read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import null_space

from jaxflow.edges import BlockWeights, Norm, Trace, aggregate, weigh
from jaxflow.errors import InputError

LAYERS, HEADS, N, SIZE, WIDTH = 2, 3, 9, 4, 12


def random_trace(seed=0, *, batch=2, n=N, lengths=None, causal=False, attention=None):
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, n), bool)
    if lengths is not None:
        mask = np.arange(n) < np.asarray(lengths)[:, None]
    allowed = mask[:, None, None, None, :]
    if causal:
        allowed = allowed & np.tri(n, dtype=bool)
    if attention is None:
        scores = np.exp(2 * rng.normal(size=(batch, LAYERS, HEADS, n, n))) * allowed
        attention = scores / scores.sum(-1, keepdims=True)
    norm = Norm(np.ones((LAYERS, WIDTH)), np.zeros((LAYERS, WIDTH)), 1e-5)
    empty = np.zeros((LAYERS, WIDTH, 1))
    blocks = BlockWeights(
        rng.normal(size=(LAYERS, HEADS, SIZE, WIDTH)), empty[..., 0], norm, norm, empty,
        empty[:, 0], empty.mT, empty[..., 0], "gelu", True,
    )  # fmt: skip
    trace = Trace(
        attention,
        mask,
        vectors=rng.normal(size=(batch, LAYERS, HEADS, n, SIZE)),
        stream=rng.normal(size=(batch, LAYERS + 1, n, WIDTH)),
        blocks=blocks,
    )
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, bool if leaf.dtype == bool else jnp.float32), trace
    )


def by_loops(trace):
    """Each row of each head less its projection onto the null space of the keys in its sight."""
    attention = np.asarray(trace.attention, np.float64)
    found = np.zeros((*attention.shape[:2], *attention.shape[-2:]))
    for b, layer, head, i in np.ndindex(*attention.shape[:-1]):
        if not trace.mask[b, i]:
            continue
        row = attention[b, layer, head, i]
        seen = np.flatnonzero(attention[b, layer, :, i].any(0))
        value = np.asarray(trace.vectors[b, layer, head, seen], np.float64)
        read = value @ np.asarray(trace.blocks.projection[layer, head], np.float64)
        null = null_space(read.T, rcond=1e-6)
        found[b, layer, i, seen] += (row[seen] - null @ (null.T @ row[seen])) / HEADS
    return found


@pytest.mark.parametrize("causal", [False, True])
def test_projections_are_those_of_scipy(causal):
    trace = random_trace(causal=causal, lengths=(N, 6))
    found = np.asarray(weigh(trace, "effective"))
    np.testing.assert_allclose(found, by_loops(trace), atol=2e-5)
    assert (found < -1e-3).any()
    if causal:
        assert not found[..., *np.triu_indices(N, 1)].any()


def test_heads_read_the_same_and_no_shorter_rows_would_do():
    trace = random_trace(1, batch=1)
    blocks = dataclasses.replace(trace.blocks, projection=trace.blocks.projection[:, :1])
    one = dataclasses.replace(
        trace, attention=trace.attention[:, :, :1], vectors=trace.vectors[:, :, :1], blocks=blocks
    )
    effective = np.asarray(weigh(one, "effective"))[0]
    attention, values = np.asarray(one.attention)[0, :, 0], np.asarray(one.vectors)[0, :, 0]
    np.testing.assert_allclose(effective @ values, attention @ values, atol=1e-5)
    for layer in range(LAYERS):  # the least-squares solution of least norm
        least = np.linalg.lstsq(values[layer].T, (attention[layer] @ values[layer]).T, rcond=None)
        np.testing.assert_allclose(effective[layer], least[0].T, atol=2e-5)
    assert (np.linalg.norm(effective, axis=-1) <= np.linalg.norm(attention, axis=-1) + 1e-6).all()


def test_short_sentences_keep_their_attention_and_padding_changes_nothing():
    trace = random_trace(2, lengths=(N, SIZE))
    found = np.asarray(weigh(trace, "effective"))
    mean = np.asarray(trace.attention).mean(2)
    np.testing.assert_allclose(found[1, :, :SIZE], mean[1, :, :SIZE], atol=1e-5)
    padded = random_trace(2, n=N)
    longer = dataclasses.replace(
        padded,
        attention=jnp.pad(padded.attention, [(0, 0)] * 3 + [(0, 3), (0, 3)]),
        mask=jnp.pad(padded.mask, [(0, 0), (0, 3)]),
        # What stands in padding is not zero in a model.
        vectors=jnp.pad(padded.vectors, [(0, 0)] * 3 + [(0, 3), (0, 0)], constant_values=5),
        stream=jnp.pad(padded.stream, [(0, 0)] * 2 + [(0, 3), (0, 0)]),
    )
    expected = np.asarray(weigh(padded, "effective"))
    np.testing.assert_allclose(
        np.asarray(weigh(longer, "effective"))[..., :N, :N], expected, atol=2e-5
    )


def test_the_order_of_heads_and_of_tokens_does_not_matter():
    trace = random_trace(3)
    whole = np.asarray(weigh(trace, "effective"))
    turned = dataclasses.replace(
        trace,
        attention=trace.attention[:, :, ::-1],
        vectors=trace.vectors[:, :, ::-1],
        blocks=dataclasses.replace(trace.blocks, projection=trace.blocks.projection[:, ::-1]),
    )
    np.testing.assert_allclose(weigh(turned, "effective"), whole, atol=2e-5)
    order = np.random.default_rng(0).permutation(N)
    moved = dataclasses.replace(
        trace,
        attention=trace.attention[..., order, :][..., order],
        vectors=trace.vectors[..., order, :],
        stream=trace.stream[..., order, :],
    )
    expected = whole[..., order, :][..., order]
    np.testing.assert_allclose(weigh(moved, "effective"), expected, atol=2e-5)


def test_flow_and_rollout_take_the_positive_part():
    trace = random_trace(4, batch=1)
    positive = np.maximum(np.asarray(weigh(trace, "effective"), np.float64), 0)
    rows = positive / positive.sum(-1, keepdims=True) / 2 + np.eye(N) / 2
    rolled = aggregate(trace, "effective", "rollout")
    np.testing.assert_allclose(rolled[0, -1], rows[0, 1] @ rows[0, 0], atol=1e-5)
    flows = aggregate(trace, "effective", "flow", sources=[0])
    assert (flows >= 0).all()
    np.testing.assert_allclose(flows[0, 0, 0], rows[0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("lengths", [(4, 3), (1, 1)])
def test_sentences_no_longer_than_a_head_is_wide_are_refused(lengths):
    trace = random_trace(n=6, lengths=lengths)
    complaint = f"more tokens than a head is wide .4., the longest has {max(lengths)}"
    with pytest.raises(InputError, match=complaint):
        weigh(trace, "effective")
