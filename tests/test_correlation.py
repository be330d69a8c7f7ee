"""Test Spearman's rank correlation against SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from attentions import DTYPES, Foreign
from hypothesis import example, given
from hypothesis import strategies as st

import jaxflow


def oracle(a, b):
    """Scipy's value; NaN where it warns that the value is not defined."""
    if len(a) < 2 or np.isnan([a, b]).any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(a, b).statistic)


# Few distinct values, so that ties and constant sides are the rule.
entries = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.25000003, 1.0, 1e30])
# One shape for the compiler; the number of counted tokens is in the mask.
rows = st.lists(entries, min_size=6, max_size=6).map(np.array)
masks = st.lists(st.booleans(), min_size=6, max_size=6).map(np.array)


RISING = np.arange(6.0)


@given(a=rows, b=rows, mask=masks, dtype=st.sampled_from(DTYPES))
@example(a=np.zeros(6), b=RISING, mask=np.ones(6, bool), dtype=np.float64)
@example(a=RISING, b=np.zeros(6), mask=np.ones(6, bool), dtype=np.float32)
@example(a=RISING, b=-RISING, mask=np.ones(6, bool), dtype=np.float64)
@example(a=RISING, b=RISING, mask=np.zeros(6, bool), dtype=np.float64)
@example(a=RISING, b=RISING, mask=RISING == 3, dtype=np.float64)
@example(a=RISING, b=RISING, mask=RISING < 2, dtype=np.float64)
def test_against_scipy_with_ties_where_only_counted_tokens_count(a, b, mask, dtype):
    a, b = a.astype(dtype), b.astype(dtype)
    close = functools.partial(
        np.testing.assert_allclose, atol=1e-6 if dtype == np.float32 else 1e-14
    )
    close(jaxflow.spearman(a, b), oracle(a, b))
    close(jaxflow.spearman(a, b, mask), oracle(a[mask], b[mask]))
    # What stands at the other tokens does not matter, not even a NaN.
    a, b = np.where(mask, a, dtype(np.nan)), np.where(mask, b, dtype(np.inf))
    close(jaxflow.spearman(a, b, mask), oracle(a[mask], b[mask]))


def test_known_value_where_the_tie_free_formula_is_wrong():
    """Ranks 1.5 1.5 3 4 and 1 2 3.5 3.5: r = 4 / 4.5, where 1 - 6 d2 / n (n2 - 1) gives 0.9."""
    result = jaxflow.spearman(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 3]))
    assert result == pytest.approx(4 / 4.5, abs=1e-15)


def test_infinities_are_ranked_and_nan_makes_nan():
    a, b = np.array([-np.inf, 0, 1, np.inf]), np.array([1.0, 3, 2, 4])
    assert jaxflow.spearman(a, b) == pytest.approx(0.8, abs=1e-15)
    a[1] = np.nan
    assert np.isnan(jaxflow.spearman(a, b))
    assert np.isnan(jaxflow.spearman(b, a))


def test_a_perfect_correlation_never_exceeds_1():
    for n in range(2, 40):
        values = np.random.default_rng(n).normal(size=40).astype(np.float32)
        mask = np.arange(40) < n
        assert float(jaxflow.spearman(values, values, mask)) == pytest.approx(1, abs=1e-6)
        assert abs(float(jaxflow.spearman(values, -values, mask))) <= 1


def test_batch_axes_broadcast_and_jit_and_vmap_change_nothing():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(3, 1, 5)), rng.normal(size=(4, 5))
    mask = np.array([True, True, False, True, True])
    found = jaxflow.spearman(a, b, mask)
    expected = [[oracle(one[0, mask], other[mask]) for other in b] for one in a]
    np.testing.assert_allclose(found, expected, atol=1e-14)
    c, d = jnp.asarray(a[:, 0], jnp.float32), jnp.asarray(b[:3], jnp.float32)
    counted = jnp.asarray(rng.random((3, 5)) < 0.8)
    for change in (jax.jit, jax.vmap):
        found = change(jaxflow.spearman)(c, d, counted)
        np.testing.assert_allclose(found, jaxflow.spearman(c, d, counted), atol=1e-6)


def test_precision_and_home_of_the_result():
    values = np.arange(4.0)
    assert jaxflow.spearman(values, values).dtype == np.float64
    assert jaxflow.spearman(values.astype(np.float32), values).dtype == np.float64
    single = values.astype(np.float32)
    result = jaxflow.spearman(Foreign(single), single, mask=Foreign(np.ones(4, bool)))
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    on_device = jaxflow.spearman(jnp.asarray(single), single)
    assert isinstance(on_device, jax.Array)
    assert on_device.dtype == jnp.float32


def test_whole_numbers_and_half_precision_are_ranked_exactly() -> None:
    assert jaxflow.spearman([1, 2, 3], [3, 1, 2]) == -0.5
    assert jaxflow.spearman([[1, 2, 3]], [True, False, False]).dtype == np.float64
    large = np.array([2**60, 2**60 + 1, 2**60 + 2])  # equal in float64
    assert jaxflow.spearman(large, [1, 2, 3]) == 1
    assert jaxflow.spearman(jnp.array([3, 1, 2]), jnp.arange(3)).dtype == jnp.float32
    many = np.random.default_rng(0).permutation(200)
    found = jaxflow.spearman(many.astype(np.float16), np.arange(200, dtype=np.float16))
    assert found.dtype == np.float32
    expected = scipy.stats.spearmanr(many, np.arange(200)).statistic
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "mask", "complaint"),
    [
        (np.ones(3), np.ones(3, complex), None, "b must be real numbers .* complex128"),
        (np.float64(1), np.ones(3), None, r"a must be real numbers of shape .* \(\)"),
        (np.ones(3), np.ones(4), None, r"a, b and mask must have fitting shapes"),
        (np.ones(3), np.ones(1), None, r"a, b and mask must have the same number of tokens"),
        (np.ones((2, 3)), np.ones((3, 3)), None, r"a, b and mask must have fitting shapes"),
        (np.ones(3), np.ones(3), np.ones(2, bool), "mask must have fitting shapes"),
        (np.ones(3), np.ones(3), np.ones(1, bool), "mask must have the same number of tokens"),
        (np.ones(3), np.ones(3), np.ones(3), "mask must be boolean, .* float64"),
        (np.ones(3), "words", None, "b must be"),
    ],
)
def test_unusable_input_is_named(a, b, mask, complaint):
    with pytest.raises(ValueError, match=complaint):
        jaxflow.spearman(a, b, mask)
