"""Test dropout of attention, of which models' tests see nothing, and texts of padding only."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.models.blocks import allowed_pairs, attend, dropout

BATCH, HEADS, N, SIZE = 2, 3, 5, 4
MASK = np.array([[True] * 5, [True, True, False, True, False]])


def projections() -> tuple[jax.Array, jax.Array, jax.Array]:
    values = np.random.default_rng(0).normal(size=(3, BATCH, HEADS, N, SIZE))
    query, key, value = jnp.asarray(values, jnp.float32)
    return query, key, value


def test_weights_are_those_before_dropout() -> None:
    query, key, value = projections()
    allowed = allowed_pairs(jnp.asarray(MASK), causal=False)
    rng = jax.random.key(1)
    mixed, weights, _ = attend(query, key, value, allowed)
    mixed_train, weights_train, _ = attend(query, key, value, allowed, rate=0.5, rng=rng)
    np.testing.assert_array_equal(weights_train, weights)
    dropped = np.asarray(dropout(rng, weights, 0.5))
    assert 0 < (dropped == 0).mean() - (np.asarray(weights) == 0).mean() < 1
    np.testing.assert_allclose(mixed_train, dropped @ np.asarray(value), atol=1e-6)
    assert float(jnp.abs(mixed_train - mixed).max()) > 0.1


def test_a_sentence_of_padding_only_gives_zeros_and_no_nan() -> None:
    query, key, value = projections()
    allowed = allowed_pairs(jnp.zeros((BATCH, N), bool), causal=False)

    @jax.jit
    def total(query: jax.Array) -> jax.Array:
        mixed, weights, _ = attend(query, key, value, allowed)
        return (mixed.sum() + weights.sum()) ** 2

    value_of, gradient = jax.value_and_grad(total)(query)
    assert float(value_of) == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(rate: float) -> None:
    values = jnp.ones((100, 1000))
    result = np.asarray(dropout(jax.random.key(2), values, rate))
    kept = result != 0
    # Five standard deviations of a binomial count.
    assert abs(kept.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / kept.size)
    np.testing.assert_allclose(result[kept], 1 / (1 - rate), rtol=1e-6)
    # Even over rows and columns too.
    for axis, size in ((0, 100), (1, 1000)):
        spread = kept.mean(axis).std()
        assert spread == pytest.approx(math.sqrt(rate * (1 - rate) / size), rel=0.25)


def test_dropout_is_its_keys_and_nothing_else() -> None:
    values = jnp.ones(20_000)
    keys = jax.random.split(jax.random.key(3), 8)
    masks = np.array([dropout(key, values, 0.5) for key in keys]) != 0
    again = np.array([dropout(key, values, 0.5) for key in keys]) != 0
    np.testing.assert_array_equal(masks, again)
    correlation = np.corrcoef(masks) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(values.size)
    # Neighbours within one mask are independent as well.
    for lag in (1, 2, 7, 64, 128):
        lagged = np.corrcoef(masks[0, lag:], masks[0, :-lag])[0, 1]
        assert abs(lagged) < 5 / math.sqrt(values.size)
