"""The authors' rank correlation: pandas-like dense ranks in the formula that has no ties."""

import numpy as np
import pytest
import scipy.stats

from jaxflow.eval.paper.dense import dense_ranks, dense_spearman


def test_dense_ranks_are_scipys():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        values = rng.integers(0, 5, size).astype(float)
        np.testing.assert_array_equal(
            dense_ranks(values), scipy.stats.rankdata(values, method="dense")
        )


def test_without_ties_it_is_spearmans_correlation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4, 11))
    found = dense_spearman(a, b, np.ones(11, bool))
    for place in np.ndindex(3, 4):
        expected = scipy.stats.spearmanr(a[place], b[place]).statistic
        assert found[place] == pytest.approx(expected, abs=1e-12)


def test_with_ties_it_is_what_the_formula_gives():
    # Dense ranks 1 2 2 3 against 1 2 3 3: one rank apart at the third place.
    found = dense_spearman([1.0, 5.0, 5.0, 7.0], [0.0, 1.0, 2.0, 2.0], [True] * 4)
    assert float(found) == pytest.approx(1 - 6 * 1 / (4 * 15))
    # Two constants agree perfectly, which no correlation would say.
    assert float(dense_spearman([3.0] * 5, [4.0] * 5, [True] * 5)) == 1.0


def test_only_counted_tokens_matter_and_one_is_too_few():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 2, 6))
    counted = np.array([[True, True, False, True, True, False], [True] + [False] * 5])
    found = dense_spearman(a, b, counted)
    expected = scipy.stats.spearmanr(a[0][counted[0]], b[0][counted[0]]).statistic
    assert found[0] == pytest.approx(expected)
    assert np.isnan(found[1])
    # What is not counted may be anything.
    a[0, 2], b[0, 5] = 1e9, np.nan
    assert dense_spearman(a, b, counted)[0] == found[0]


def test_rows_broadcast():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 1, 5))
    found = dense_spearman(a, b, np.ones((2, 1, 5), bool))
    assert found.shape == (2, 4)
    assert found[1, 2] == dense_spearman(a[1, 2], b[1, 0], np.ones(5, bool))
