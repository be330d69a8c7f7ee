"""Value zeroing: the authors' numbers, and whole blocks run again in float64 loops."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from golden_models import golden
from golden_models import traced as golden_trace
from traces import traced

from jaxflow.edges import aggregate, weigh

KINDS = ("pre", "post", "causal")
ERF = np.vectorize(math.erf)


def run_block(blocks, layer, stream, mixed):
    """What a block returns, from its stream ``[n, D]`` and the mixed values ``[H, n, d]``."""

    def normal(values, norm):
        mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
        return (values - mean) / np.sqrt(variance + norm.epsilon) * norm.scale[layer] + norm.bias[
            layer
        ]

    middle = stream + blocks.projection_bias[layer]
    for head in range(len(mixed)):
        middle = middle + mixed[head] @ blocks.projection[layer, head]
    if not blocks.norm_first:
        middle = normal(middle, blocks.norm_attention)
    read = normal(middle, blocks.norm_feed_forward) if blocks.norm_first else middle
    wide = read @ blocks.up[layer] + blocks.up_bias[layer]
    if blocks.activation == "gelu":
        wide = wide / 2 * (1 + ERF(wide / math.sqrt(2)))
    else:
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        wide = wide / 2 * (1 + np.tanh(inner))
    result = middle + wide @ blocks.down[layer] + blocks.down_bias[layer]
    return result if blocks.norm_first else normal(result, blocks.norm_feed_forward)


def by_loops(trace):
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trace)
    batch, layers, _, n, _ = wide.attention.shape
    found = np.zeros((batch, layers, n, n))
    for b, layer in np.ndindex(batch, layers):
        stream, attention = wide.stream[b, layer], wide.attention[b, layer]
        values = wide.vectors[b, layer]
        original = run_block(wide.blocks, layer, stream, attention @ values)
        for j in range(n):
            without = values.copy()
            without[:, j] = 0
            altered = run_block(wide.blocks, layer, stream, attention @ without)
            for i in range(n):
                product = original[i] @ altered[i]
                length = np.linalg.norm(original[i]) * np.linalg.norm(altered[i])
                found[b, layer, i, j] = max(0, 1 - product / length)
    total = found.sum(-1, keepdims=True)
    return np.divide(found, total, out=np.zeros_like(found), where=total > 0)


def test_the_authors_program_gives_the_same_scores_and_rollout():
    trace, numbers = golden_trace("bert"), golden("bert")
    # In single precision, as a model is traced.
    single = jax.tree.map(
        lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, trace
    )
    np.testing.assert_allclose(
        weigh(single, "value-zeroing"), numbers["zeroing/scores"], rtol=1e-3, atol=1e-6
    )
    rolled = np.asarray(aggregate(single, "value-zeroing", "rollout"))[:, -1]
    np.testing.assert_allclose(rolled, numbers["zeroing/rollout"][:, -1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_loops(kind):
    trace = traced(kind)
    mask = np.asarray(trace.mask)
    found = np.asarray(weigh(trace, "value-zeroing"))
    expected = by_loops(trace)
    real = np.broadcast_to((mask[:, :, None] & mask[:, None, :])[:, None], found.shape)
    np.testing.assert_allclose(found[real], expected[real], rtol=5e-3, atol=1e-6)
    rows = np.broadcast_to(mask[:, None], found.shape[:-1])
    np.testing.assert_allclose(found.sum(-1)[rows], 1, atol=1e-5)
    assert not found[~real].any()
    if kind == "causal":
        assert not found[..., *np.triu_indices(found.shape[-1], 1)].any()


def test_the_order_of_heads_and_of_tokens_does_not_matter():
    trace = traced("post")
    whole = np.asarray(weigh(trace, "value-zeroing"))
    turned = dataclasses.replace(
        trace,
        attention=trace.attention[:, :, ::-1],
        vectors=trace.vectors[:, :, ::-1],
        blocks=dataclasses.replace(trace.blocks, projection=trace.blocks.projection[:, ::-1]),
    )
    np.testing.assert_allclose(weigh(turned, "value-zeroing"), whole, atol=1e-5)
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = dataclasses.replace(
        trace,
        attention=trace.attention[..., order, :][..., order],
        vectors=trace.vectors[..., order, :],
        stream=trace.stream[..., order, :],
        mask=trace.mask[..., order],
    )
    expected = whole[..., order, :][..., order]
    np.testing.assert_allclose(weigh(moved, "value-zeroing"), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_one_token_is_its_own(kind):
    trace = traced(kind)
    real = int(np.asarray(trace.mask[1]).sum())

    def first(count):
        return dataclasses.replace(
            trace,
            attention=trace.attention[1, ..., :count, :count],
            vectors=trace.vectors[1, ..., :count, :],
            stream=trace.stream[1, ..., :count, :],
            mask=None,
        )

    whole = np.asarray(weigh(trace, "value-zeroing"))[1]
    alone = weigh(first(real), "value-zeroing")
    np.testing.assert_allclose(alone, whole[:, :real, :real], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(weigh(first(1), "value-zeroing"), 1, atol=1e-6)


def test_values_of_nothing_leave_rows_of_zeros():
    trace = traced("pre")
    still = dataclasses.replace(trace, vectors=np.zeros_like(trace.vectors))
    assert not np.asarray(weigh(still, "value-zeroing")).any()
    rolled = np.asarray(aggregate(still, "value-zeroing", "rollout"))[0, -1]
    np.testing.assert_allclose(rolled, np.eye(6), atol=1e-6)
