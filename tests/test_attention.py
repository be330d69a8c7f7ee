"""What counts as an attention, how heads are fused, what the graph's edges weigh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import (
    DTYPES,
    Foreign,
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
from jaxflow.attention import ROW_SUM_TOLERANCE, check_attention, edge_weights, fuse_heads

METHODS: dict[str, Callable[..., Any]] = {
    "raw_attention": jaxflow.raw_attention,
    "rollout": jaxflow.rollout,
    "head_rollout": jaxflow.head_rollout,
    "flow": jaxflow.flow,
    "saturation": jaxflow.saturation,
    "attention_graph": jaxflow.attention_graph,
    "flow_cut": lambda attention, **options: jaxflow.flow_cut(
        attention, layer=0, source=0, sink=0, **options
    ),
}
METHODS_WITH_HEADS = [name for name in METHODS if name != "head_rollout"]
METHODS_WITH_RESIDUAL = [name for name in METHODS if name != "raw_attention"]


def good() -> np.ndarray:
    return attention_of("dense", 0, (2, 3, 4, 4))


def with_entry(value: float) -> np.ndarray:
    attention = good()
    attention[1, 2, 3, 0] = value
    return attention


def tilted(change: float) -> np.ndarray:
    """An attention one row of which sums to ``1 + change``."""
    attention = good()
    attention[0, 1, 2, 3] += change
    return attention


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("attention", "complaint"),
    [
        (good()[0, 0], r"attention must have the shape .* got rank 2"),
        (good()[0], r"attention must have the shape .* got rank 3"),
        (good()[..., :3], r"attention must be square .* \(2, 3, 4, 3\)"),
        (good()[:0], r"attention must not have an empty axis"),
        (tilted(0.01), r"attention rows \(queries\) must sum to 1 within 0.0001, .* 0.01"),
        (tilted(-0.01), r"attention rows \(queries\) must sum to 1"),
        (good() * 0, r"attention rows \(queries\) must sum to 1"),
        (good().swapaxes(-1, -2), r"attention rows \(queries\) must sum to 1"),
        (with_entry(-0.25), r"attention must not be negative, got -0.25"),
        (with_entry(np.nan), r"attention must be finite"),
        (with_entry(np.inf), r"attention must be finite"),
        (with_entry(-np.inf), r"attention must be finite"),
        (good().astype(np.float16), r"attention must be float32 or float64, got float16"),
        (np.ones((1, 1, 1, 1), int), r"attention must be float32 or float64, got int64"),
        (good() + 0j, r"attention must be float32 or float64, got complex128"),
        ([[[[1.0, 2.0], [3.0]]]], r"attention cannot be read as an array"),
        ({"attention": 1}, r"attention must be an array of numbers, got dict"),
        (None, r"attention must be an array of numbers, got NoneType"),
    ],
)
def test_unusable_attention_is_named(method: str, attention: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        METHODS[method](attention)
    assert isinstance(caught.value, jaxflow.InputError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.ones(3, bool), r"mask must have the shape \(4,\) .* got \(3,\)"),
        (np.ones((1, 4), bool), r"mask must have the shape \(4,\) .* got \(1, 4\)"),
        (np.ones((), bool), r"mask must have the shape \(4,\) .* got \(\)"),
        (np.ones(4, int), r"mask must be boolean, .* got int64"),
        (np.ones(4, np.float32), r"mask must be boolean, .* got float32"),
        (np.arange(4) < 3, r"attention must hold exactly 0 at the keys that mask marks"),
    ],
)
def test_unusable_mask_is_named(method: str, mask: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        METHODS[method](good(), mask=mask)


@pytest.mark.parametrize("method", METHODS_WITH_HEADS)
@pytest.mark.parametrize("heads", ["median", 3, -4, 1.0, True, None, [0], ("mean",)])
def test_unknown_head_is_named(method: str, heads: Any) -> None:
    with pytest.raises(ValueError, match="heads must be"):
        METHODS[method](good(), heads=heads)


@pytest.mark.parametrize("method", METHODS_WITH_RESIDUAL)
@pytest.mark.parametrize("residual", [-0.1, 1.1, float("nan"), "half", None])
def test_impossible_residual_is_named(method: str, residual: Any) -> None:
    with pytest.raises(ValueError, match="residual must be a number from 0 to 1"):
        METHODS[method](good(), residual=residual)


@pytest.mark.parametrize("namespace", [np, jnp])
def test_rows_may_miss_1_by_the_tolerance_and_no_more(namespace: Any) -> None:
    check_attention(namespace.asarray(tilted(0.9 * ROW_SUM_TOLERANCE), np.float32))
    with pytest.raises(ValueError, match="attention rows"):
        check_attention(namespace.asarray(tilted(1.1 * ROW_SUM_TOLERANCE), np.float32))


def test_infinities_of_both_signs_are_an_error_and_no_warning() -> None:
    attention = with_entry(np.inf)
    attention[1, 2, 3, 1] = -np.inf
    with pytest.raises(ValueError, match="attention must be finite"):
        check_attention(attention)


@pytest.mark.parametrize("junk", [0.0, np.nan, -3.0, np.inf])
def test_padded_queries_may_hold_anything(junk: float) -> None:
    attention, mask = pad(good(), np.array([0, 1, 3, 4]), 6, junk)
    checked, _ = check_attention(attention, mask)
    np.testing.assert_array_equal(checked, attention)


def test_checked_input_is_not_copied_or_changed() -> None:
    attention = good()
    before = attention.copy()
    assert check_attention(attention)[0] is attention
    jaxflow.rollout(attention)
    np.testing.assert_array_equal(attention, before)
    device = jnp.asarray(good(), jnp.float32)
    assert check_attention(device)[0] is device


def test_values_are_not_asked_for_under_jit() -> None:
    wrong = jnp.asarray(good() * 2, jnp.float32)
    with pytest.raises(ValueError, match="attention rows"):
        jaxflow.rollout(wrong)
    assert jax.jit(jaxflow.rollout)(wrong).shape == (2, 4, 4)
    with pytest.raises(ValueError, match="attention must be square"):
        jax.jit(jaxflow.rollout)(wrong[..., :3])


@given(attention=attentions(), heads=heads_options)
def test_raw_attention_against_loops(attention: np.ndarray, heads: str | int) -> None:
    expected = oracles.raw_attention(attention, heads)
    tolerance = 1e-6 if attention.dtype == np.float32 else 1e-15
    result = jaxflow.raw_attention(attention, heads=heads)
    np.testing.assert_allclose(result, expected, atol=tolerance)
    np.testing.assert_allclose(fuse_heads(attention, heads), expected, atol=tolerance)


@given(attention=attentions(), heads=heads_options, residual=residuals)
def test_edge_weights_against_loops(
    attention: np.ndarray, heads: str | int, residual: float
) -> None:
    expected = oracles.edge_weights(attention, residual, heads)
    tolerance = 1e-6 if attention.dtype == np.float32 else 1e-14
    result = edge_weights(attention, residual=residual, heads=heads)
    assert result.dtype == attention.dtype
    np.testing.assert_allclose(result, expected, atol=tolerance)
    if heads != "min" or residual > 0:
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_edge_weights_by_hand() -> None:
    attention = np.array([[[[1.0, 0.0], [0.4, 0.6]], [[0.5, 0.5], [0.0, 1.0]]]])
    mean = edge_weights(attention)
    np.testing.assert_allclose(mean, [[[0.875, 0.125], [0.1, 0.9]]], rtol=1e-15)
    # Rows of the maximum, [1, .5] and [.4, 1], become [1, .25] and [.2, 1] before normalisation.
    largest = edge_weights(attention, heads="max")
    np.testing.assert_allclose(largest, [[[0.8, 0.2], [1 / 6, 5 / 6]]], rtol=1e-15)
    np.testing.assert_allclose(edge_weights(attention, residual=1), [np.eye(2)], rtol=1e-15)


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    heads=heads_options,
    junk=junk_values,
    data=st.data(),
)
def test_padding_changes_no_raw_attention(
    attention: np.ndarray, heads: str | int, junk: float, data: st.DataObject
) -> None:
    n = attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, junk)
    result = unpad(jaxflow.raw_attention(padded, heads=heads, mask=mask), places)
    np.testing.assert_allclose(result, jaxflow.raw_attention(attention, heads=heads), atol=1e-6)


@given(attention=attentions(), seed=st.integers(0, 99), heads=st.sampled_from(["mean", "max"]))
def test_raw_attention_does_not_know_the_heads_order(
    attention: np.ndarray, seed: int, heads: str
) -> None:
    shuffled = np.random.default_rng(seed).permutation(attention, axis=-3)
    result = jaxflow.raw_attention(shuffled, heads=heads)
    np.testing.assert_allclose(result, jaxflow.raw_attention(attention, heads=heads), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["raw_attention", "rollout", "head_rollout"])
def test_numpy_in_numpy_out_in_the_same_precision(method: str, dtype: type) -> None:
    attention = good().astype(dtype)
    for given_as in (attention, Foreign(attention), attention.tolist()):
        result = METHODS[method](given_as, mask=Foreign(np.ones(4, bool)))
        assert isinstance(result, np.ndarray)
        expected = np.float64 if isinstance(given_as, list) else dtype
        assert result.dtype == expected
        np.testing.assert_allclose(result, METHODS[method](good()), atol=1e-6)


@pytest.mark.parametrize("method", ["raw_attention", "rollout", "head_rollout"])
def test_jax_in_jax_out(method: str) -> None:
    attention = jnp.asarray(good(), jnp.float32)
    for mask in (None, np.ones(4, bool), jnp.ones(4, bool)):
        result = METHODS[method](attention, mask=mask)
        assert isinstance(result, jax.Array)
        assert result.dtype == jnp.float32
    with jax.enable_x64(True):
        assert METHODS[method](jnp.asarray(good())).dtype == jnp.float64
