"""Test the checks of attention, fused heads, edge weights and half precision."""

from functools import partial

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
    softmax,
    unpad,
)
from hypothesis import given
from hypothesis import strategies as st
from numeric_limits import DTYPES as HALF_DTYPES
from numeric_limits import flow_share, rollout_share
from session import refused

import jaxflow
from jaxflow.attention import (
    HALVES,
    ROW_SUM_TOLERANCE,
    check_attention,
    edge_weights,
    fuse_heads,
)

METHODS = {
    "raw_attention": jaxflow.raw_attention,
    "rollout": jaxflow.rollout,
    "head_rollout": jaxflow.head_rollout,
    "flow": jaxflow.flow,
    "saturation": jaxflow.saturation,
    "attention_graph": jaxflow.attention_graph,
    "flow_cut": partial(jaxflow.flow_cut, layer=0, source=0, sink=0),
    "discard": partial(jaxflow.discard, ratio=0.5),
}


def good():
    return attention_of("dense", 0, (2, 3, 4, 4))


def with_entry(value):
    attention = good()
    attention[1, 2, 3, 0] = value
    return attention


def tilted(change):
    """An attention one row of which sums to ``1 + change``."""
    attention = good()
    attention[0, 1, 2, 3] += change
    return attention


UNUSABLE = [
    (good()[0], {}, r"attention must have the shape .* got rank 3"),
    (good()[..., :3], {}, r"attention must be square .* \(2, 3, 4, 3\)"),
    (good()[:0], {}, r"attention must not have an empty axis"),
    (tilted(0.01), {}, r"attention rows \(queries\) must sum to 1 within 0.0001, .* 0.01"),
    (tilted(-0.01), {}, r"attention rows \(queries\) must sum to 1"),
    (good().swapaxes(-1, -2), {}, r"attention rows \(queries\) must sum to 1"),
    (with_entry(-0.25), {}, r"attention must not be negative, got -0.25"),
    (with_entry(-np.inf), {}, r"attention must be finite"),
    (np.ones((1, 1, 1, 1), int), {}, r"attention must be float32 or float64, got int64"),
    ([[[[1.0, 2.0], [3.0]]]], {}, r"attention cannot be read as an array"),
    (good(), {"mask": np.ones(3, bool)}, r"mask must have the shape \(4,\) .* got \(3,\)"),
    (good(), {"mask": np.ones(4, int)}, r"mask must be boolean, .* got int64"),
    (good(), {"mask": np.arange(4) < 3}, r"attention must hold exactly 0 at the keys that mask"),
    *((good(), {"heads": heads}, "heads must be") for heads in ("median", 3, -4, 1.0, True, [0])),
    *((good(), {"residual": share}, "residual must be") for share in (-0.1, 1.1, np.nan, "half")),
]


@pytest.mark.parametrize("method", METHODS)
def test_unusable_input_is_named(method):
    lacks = {"head_rollout": "heads", "raw_attention": "residual"}.get(method)
    for attention, options, complaint in UNUSABLE:
        if lacks not in options:
            with refused(complaint):
                METHODS[method](attention, **options)


@pytest.mark.parametrize("namespace", [np, jnp])
def test_rows_may_miss_1_by_the_tolerance_and_no_more(namespace):
    check_attention(namespace.asarray(tilted(0.9 * ROW_SUM_TOLERANCE), np.float32))
    with refused("attention rows"):
        check_attention(namespace.asarray(tilted(1.1 * ROW_SUM_TOLERANCE), np.float32))


def test_checked_input_is_not_copied_or_changed():
    attention = good()
    assert check_attention(attention)[0] is attention
    jaxflow.rollout(attention)
    jaxflow.flow(attention)
    np.testing.assert_array_equal(attention, good())
    device = jnp.asarray(good(), jnp.float32)
    assert check_attention(device)[0] is device


def test_values_are_not_read_under_jit():
    wrong = jnp.asarray(good() * 2, jnp.float32)
    assert jax.jit(jaxflow.rollout)(wrong).shape == (2, 4, 4)
    with refused("attention must be square"):
        jax.jit(jaxflow.rollout)(wrong[..., :3])


@given(attention=attentions(), heads=heads_options, residual=residuals)
def test_fusing_and_edge_weights_against_loops(attention, heads, residual):
    tolerance = 1e-6 if attention.dtype == np.float32 else 1e-14
    fused = oracles.raw_attention(attention, heads)
    np.testing.assert_allclose(jaxflow.raw_attention(attention, heads=heads), fused, atol=tolerance)
    np.testing.assert_allclose(fuse_heads(attention, heads), fused, atol=tolerance)
    expected = oracles.edge_weights(attention, residual, heads)
    result = edge_weights(attention, residual=residual, heads=heads)
    assert result.dtype == attention.dtype
    np.testing.assert_allclose(result, expected, atol=tolerance)
    wide = edge_weights(attention, residual=residual, heads=heads, dtype=np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, expected, atol=tolerance)


def test_edge_weights_by_hand():
    attention = np.array([[[[1.0, 0.0], [0.4, 0.6]], [[0.5, 0.5], [0.0, 1.0]]]])
    mean = edge_weights(attention)
    np.testing.assert_allclose(mean, [[[0.875, 0.125], [0.1, 0.9]]], rtol=1e-15)
    # Rows of the maximum, [1, .5] and [.4, 1], become [1, .25] and [.2, 1] before normalisation.
    largest = edge_weights(attention, heads="max")
    np.testing.assert_allclose(largest, [[[0.8, 0.2], [1 / 6, 5 / 6]]], rtol=1e-15)
    np.testing.assert_allclose(edge_weights(attention, residual=1), [np.eye(2)], rtol=1e-15)
    alone = edge_weights(attention, heads=None, residual=0.25)
    expected = 0.75 * attention + 0.25 * np.eye(2)
    np.testing.assert_allclose(alone, expected, rtol=1e-15)


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    heads=heads_options,
    junk=junk_values,
    data=st.data(),
)
def test_padding_changes_no_raw_attention(attention, heads, junk, data):
    n = attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, junk)
    result = unpad(jaxflow.raw_attention(padded, heads=heads, mask=mask), places)
    np.testing.assert_allclose(result, jaxflow.raw_attention(attention, heads=heads), atol=1e-6)


@pytest.mark.parametrize("method", ["raw_attention", "rollout", "head_rollout", "discard"])
def test_precision_and_kind_of_array_are_kept(method):
    expected = METHODS[method](good())
    for dtype in DTYPES:
        attention = good().astype(dtype)
        for given_as in (attention, Foreign(attention), attention.tolist()):
            result = METHODS[method](given_as, mask=Foreign(np.ones(4, bool)))
            assert isinstance(result, np.ndarray)
            assert result.dtype == (np.float64 if isinstance(given_as, list) else dtype)
            np.testing.assert_allclose(result, expected, atol=1e-6)
    device = jnp.asarray(good(), jnp.float32)
    for mask in (None, np.ones(4, bool), jnp.ones(4, bool)):
        result = METHODS[method](device, mask=mask)
        assert isinstance(result, jax.Array)
        assert result.dtype == jnp.float32
    with jax.enable_x64(True):
        assert METHODS[method](jnp.asarray(good())).dtype == jnp.float64


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize(("layers", "n"), [(1, 1), (12, 17), (96, 9)])
def test_half_precision_rounds_no_more_than_the_bounds(name, layers, n):
    scores = np.random.default_rng(layers).normal(size=(layers, 1, n, n))
    exact = softmax(scores / 2)  # no entry below 6e-5
    wide = jaxflow.widen(exact.astype(HALF_DTYPES[name]))
    assert wide.dtype == np.float32
    share = flow_share(name)
    np.testing.assert_allclose(wide.sum(-1), 1, atol=1e-6)
    assert (np.abs(wide - exact) <= share * exact).all()
    flows, rounded = jaxflow.flow(exact), jaxflow.flow(wide)
    assert (np.abs(rounded - flows) <= share * flows).all()
    rolled = jaxflow.rollout(exact)
    error = np.abs(jaxflow.rollout(wide).astype(np.float64) - rolled)
    bound = rollout_share(name, layers)
    assert (error <= bound[:, None, None] * rolled + 1e-6).all()


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_of_a_softmax_and_with_padding(name):
    scores = jax.random.normal(jax.random.key(0), (4, 8, 64, 64)) * 3
    device = jaxflow.widen(jax.nn.softmax(scores.astype(name), axis=-1))
    assert isinstance(device, jax.Array)
    jaxflow.rollout(device)
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    exact = attention_of("dense", 0, (2, 3, 2, 4, 4)) * mask[:, None, None, None]
    exact /= exact.sum(-1, keepdims=True)
    half = exact.astype(HALF_DTYPES[name])
    wide = jaxflow.widen(half, mask)
    assert not wide[0, :, :, 3].any()
    assert not wide[1, ..., 1:].any()
    jaxflow.rollout(wide, mask=mask)
    traced = jax.jit(jaxflow.widen)(jnp.asarray(half), jnp.asarray(mask))
    np.testing.assert_allclose(traced, wide, atol=1e-7)


HALF = good().astype(np.float16)


@pytest.mark.parametrize(
    ("attention", "mask", "complaint"),
    [
        (HALF * np.float16(1.01), None, r"must sum to 1 within 0\.00098 in float16, got a row"),
        (np.zeros((1, 1, 2, 2), np.float16), None, "off by 1; use the prob"),
        (np.full((1, 1, 2, 2), np.nan, np.float16), None, "off by nan"),
        (np.eye(2, dtype=int), None, "must be bfloat16, float16, float32 or float64, got int64"),
        (np.ones(3, np.float16), None, r"shape \[..., tokens, tokens\], got \(3,\)"),
        (HALF, np.ones((1, 4), bool), "mask must have the shape"),
        (np.eye(2, dtype=np.float16), np.ones(2, bool), "mask goes with attention"),
    ],
)
def test_half_precision_that_is_not_rounding_is_refused(attention, mask, complaint):
    with refused(complaint):
        jaxflow.widen(attention, mask)
