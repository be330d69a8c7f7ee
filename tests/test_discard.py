"""Test discarding the lowest entries against loops, and its properties for any ratio."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import (
    attention_of,
    attentions,
    heads_options,
    junk_values,
    pad,
    paddings,
    residuals,
    unpad,
)
from hypothesis import given
from hypothesis import strategies as st

import jaxflow

ratios = st.sampled_from([0, 0.1, 0.29, 0.5, 0.75, 0.9, 0.999])


def discard_by_counting(attention, ratio, residual=0.5, heads="mean"):
    """An entry is dropped if no more than floor(ratio m) entries are as low as it or lower."""
    fused = oracles.raw_attention(attention, heads)
    layers, n, _ = fused.shape
    most = math.floor(Fraction(ratio) * n * n)
    result = np.zeros((layers, 1, n, n))
    for layer in range(layers):
        entries = [float(entry) for entry in fused[layer].ravel()]
        for i in range(n):
            row = []
            for j in range(n):
                entry = float(fused[layer, i, j])
                dropped = sum(other <= entry for other in entries) <= most
                row.append((1 - residual) * (0 if dropped else entry) + residual * (i == j))
            if sum(row) == 0:
                row = [float(entry == max(fused[layer, i])) for entry in fused[layer, i]]
            result[layer, 0, i] = [entry / math.fsum(row) for entry in row]
    return result


@given(attention=attentions(), ratio=ratios, residual=residuals, heads=heads_options)
def test_against_counting(attention, ratio, residual, heads):
    result = jaxflow.discard(attention, ratio, residual=residual, heads=heads)
    assert result.dtype == attention.dtype
    expected = discard_by_counting(attention, str(ratio), residual, heads)
    atol = 1e-6 if attention.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(result, expected, atol=atol)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-6)


def test_by_hand():
    attention = np.array([[[[0.7, 0.2, 0.1], [0.15, 0.6, 0.25], [0.3, 0.4, 0.3]]]])
    # Of nine entries .5 drops four: .1, .15, .2 and .25; the two of .3 are kept together.
    expected = [[1, 0, 0], [0, 1, 0], [0.15, 0.2, 0.65]]
    np.testing.assert_allclose(jaxflow.discard(attention, 0.5)[0, 0], expected, atol=1e-15)
    # .6 would drop a fifth, but it equals the sixth, and .75 drops both.
    np.testing.assert_allclose(jaxflow.discard(attention, 0.6)[0, 0], expected, atol=1e-15)
    third = jaxflow.discard(attention, 0.75)[0, 0, 2]
    np.testing.assert_allclose(third, [0, 0.2 / 0.7, 0.5 / 0.7], atol=1e-15)
    # Without a residual a row that would be empty keeps its largest entry.
    bare = jaxflow.discard(attention, 0.85, residual=0)[0, 0]
    np.testing.assert_allclose(bare, [[1, 0, 0], [0, 1, 0], [0, 1, 0]], atol=1e-15)


def test_flow_takes_it_as_rollout_does():
    attention = attention_of("peaky", 3, (3, 2, 5, 5))
    edges = jaxflow.discard(attention, 0.4)
    flows = jaxflow.flow(edges, residual=0)
    np.testing.assert_allclose(flows[0], edges[0, 0], atol=1e-12)
    assert (flows >= jaxflow.rollout(edges, residual=0) - 1e-12).all()
    plain = jaxflow.flow(jaxflow.discard(attention, 0), residual=0)
    np.testing.assert_allclose(plain, jaxflow.flow(attention), atol=1e-12)


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    residual=st.sampled_from([0.0, 0.5]),
    junk=junk_values,
    data=st.data(),
)
def test_padding_changes_nothing(attention, residual, junk, data):
    n = attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, junk)
    options = {"residual": residual, "heads": "min"}
    result = jaxflow.discard(padded, 0.29, mask=mask, **options)
    for one, found in zip(attention, result, strict=True):  # a batch is its images one by one
        expected = jaxflow.discard(one, 0.29, **options)
        np.testing.assert_allclose(unpad(found, places), expected, atol=1e-6)


@pytest.mark.parametrize(("heads", "residual"), [("mean", 0.0), ("max", 0.5)])
def test_gradient_against_finite_differences(heads, residual):
    attention = attention_of("dense", 3, (2, 2, 4, 4))
    weights = np.random.default_rng(4).normal(size=(2, 1, 4, 4))

    def plain(values):
        return float((discard_by_counting(values, "0.4", residual, heads) * weights).sum())

    def score(values):
        edges = jaxflow.discard(values, 0.4, residual=residual, heads=heads)
        return (edges * jnp.asarray(weights)).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(score))(jnp.asarray(attention))
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(gradient, oracles.finite_differences(plain, attention), atol=1e-8)


@pytest.mark.parametrize(
    "ratio", [-0.1, 1, 1.5, True, "0.5", None, float("nan"), float("inf"), [0.5]]
)
def test_unusable_ratios_are_named(ratio):
    with pytest.raises(ValueError, match="ratio must be a number of at least 0 and below 1"):
        jaxflow.discard(attention_of("dense", 0, (1, 1, 2, 2)), ratio)
    with pytest.raises(ValueError, match="ratio must be a plain number"):
        jax.jit(lambda ratio: jaxflow.discard(np.ones((1, 1, 1, 1)), ratio))(0.5)
