"""Test discarding the lowest entries against loops, and its properties for any ratio."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

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


def tolerance(attention: np.ndarray) -> float:
    return 1e-6 if attention.dtype == np.float32 else 1e-14


def discard_by_counting(
    attention: np.ndarray, ratio: str, residual: float = 0.5, heads: str | int = "mean"
) -> np.ndarray:
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
def test_against_counting(
    attention: np.ndarray, ratio: float, residual: float, heads: str | int
) -> None:
    result = jaxflow.discard(attention, ratio, residual=residual, heads=heads)
    assert result.dtype == attention.dtype
    expected = discard_by_counting(attention, str(ratio), residual, heads)
    np.testing.assert_allclose(result, expected, atol=tolerance(attention))
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-6)


def test_by_hand() -> None:
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


def test_flow_takes_it_as_rollout_does() -> None:
    attention = attention_of("peaky", 3, (3, 2, 5, 5))
    edges = jaxflow.discard(attention, 0.4)
    flows = jaxflow.flow(edges, residual=0)
    np.testing.assert_allclose(flows[0], edges[0, 0], atol=1e-12)
    assert (flows >= jaxflow.rollout(edges, residual=0) - 1e-12).all()
    plain = jaxflow.flow(jaxflow.discard(attention, 0), residual=0)
    np.testing.assert_allclose(plain, jaxflow.flow(attention), atol=1e-12)


@given(attention=attentions(), residual=residuals, heads=heads_options, data=st.data())
def test_a_higher_ratio_keeps_no_more(
    attention: np.ndarray, residual: float, heads: str | int, data: st.DataObject
) -> None:
    low, high = sorted([data.draw(ratios), data.draw(ratios)])
    n = attention.shape[-1]
    kept = [
        jaxflow.discard(attention, ratio, residual=residual, heads=heads) for ratio in (low, high)
    ]
    assert not ((kept[0] == 0) & (kept[1] > 0)).any()
    fused = oracles.raw_attention(attention, heads)[:, None]
    off = ~np.eye(n, dtype=bool)
    lost = ((kept[1] == 0) & (fused > 0) & off).sum((-1, -2))
    if residual < 1:  # else there is nothing left of the attention at any ratio
        assert (lost <= math.floor(Fraction(str(high)) * n * n)).all()


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    residual=st.sampled_from([0.0, 0.5]),
    junk=junk_values,
    data=st.data(),
)
def test_padding_changes_nothing(
    attention: np.ndarray, residual: float, junk: float, data: st.DataObject
) -> None:
    n = attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, junk)
    result = jaxflow.discard(padded, 0.29, residual=residual, heads="min", mask=mask)
    for one, found in zip(attention, result, strict=True):  # a batch is its images one by one
        expected = jaxflow.discard(one, 0.29, residual=residual, heads="min")
        np.testing.assert_allclose(unpad(found, places), expected, atol=1e-6)


@pytest.mark.parametrize(("heads", "residual"), [("mean", 0.0), ("max", 0.5)])
def test_gradient_against_finite_differences(heads: str, residual: float) -> None:
    attention = attention_of("dense", 3, (2, 2, 4, 4))
    weights = np.random.default_rng(4).normal(size=(2, 1, 4, 4))

    def plain(values: np.ndarray) -> float:
        return float((discard_by_counting(values, "0.4", residual, heads) * weights).sum())

    def score(values: jax.Array) -> jax.Array:
        edges = jaxflow.discard(values, 0.4, residual=residual, heads=heads)
        return (edges * jnp.asarray(weights)).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(score))(jnp.asarray(attention))
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(gradient, oracles.finite_differences(plain, attention), atol=1e-8)


@pytest.mark.parametrize(
    "ratio", [-0.1, 1, 1.5, True, "0.5", None, float("nan"), float("inf"), [0.5]]
)
def test_unusable_ratios_are_named(ratio: Any) -> None:
    with pytest.raises(ValueError, match="ratio must be a number of at least 0 and below 1"):
        jaxflow.discard(attention_of("dense", 0, (1, 1, 2, 2)), ratio)
    with pytest.raises(ValueError, match="ratio must be a plain number"):
        jax.jit(lambda ratio: jaxflow.discard(np.ones((1, 1, 1, 1)), ratio))(0.5)
