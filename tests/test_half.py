"""Half precision: what is accepted, and that its rounding does no more than the bounds say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric_limits import DTYPES, flow_share, rollout_share

import jaxflow
from jaxflow.attention import HALF_ROW_SUM_TOLERANCES, HALVES
from jaxflow.errors import InputError


def attention(shape, seed=0, sharp=2.0, mask=None):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=shape) * sharp
    if mask is not None:
        scores = np.where(mask[:, None, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize(("layers", "n"), [(1, 1), (2, 5), (12, 17), (96, 9)])
def test_rounding_does_no_more_than_the_bounds(name, layers, n):
    exact = attention((layers, 1, n, n), seed=layers, sharp=0.5)  # no entry below 6e-5
    wide = jaxflow.widen(exact.astype(DTYPES[name]))
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
def test_a_softmax_in_half_precision_is_within_the_tolerance(name):
    scores = jax.random.normal(jax.random.key(0), (4, 8, 64, 64)) * 3
    half = jax.nn.softmax(scores.astype(name), axis=-1)
    wide = jaxflow.widen(half)
    assert isinstance(wide, jax.Array)
    jaxflow.rollout(wide)


@pytest.mark.parametrize("name", HALVES)
def test_padding_and_ones_and_zeros(name):
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    exact = attention((2, 3, 2, 4, 4), mask=mask)
    exact[0, :, :, 1] = [0, 1, 0, 0]
    half = exact.astype(DTYPES[name])
    wide = jaxflow.widen(half, mask)
    assert (wide[0, :, :, 1] == [0, 1, 0, 0]).all()
    assert not wide[0, :, :, 3].any()
    assert not wide[1, ..., 1:].any()
    jaxflow.rollout(wide, mask=mask)
    traced = jax.jit(jaxflow.widen)(jnp.asarray(half), jnp.asarray(mask))
    np.testing.assert_allclose(traced, wide, atol=1e-7)


def test_what_rounding_does_not_explain_is_refused():
    half = attention((1, 1, 4, 4)).astype(np.float16)
    with pytest.raises(InputError, match=r"must sum to 1 within 0\.00098 in float16, got a row"):
        jaxflow.widen(half * np.float16(1.01))
    with pytest.raises(InputError, match=r"off by 1$"):
        jaxflow.widen(np.zeros((1, 1, 2, 2), np.float16))
    with pytest.raises(InputError, match="off by nan"):
        jaxflow.widen(np.full((1, 1, 2, 2), np.nan, np.float16))
    with pytest.raises(InputError, match="must be bfloat16 or float16 to be widened, got float32"):
        jaxflow.widen(np.eye(2, dtype=np.float32))
    with pytest.raises(InputError, match=r"shape \[..., tokens, tokens\], got \(2, 3\)"):
        jaxflow.widen(np.ones((2, 3), np.float16))
    with pytest.raises(InputError, match="mask must have the shape"):
        jaxflow.widen(half, np.ones((1, 4), bool))
    with pytest.raises(InputError, match=r"got float16: jaxflow\.widen makes it float32"):
        jaxflow.rollout(half)
    assert set(HALF_ROW_SUM_TOLERANCES) == set(HALVES)
