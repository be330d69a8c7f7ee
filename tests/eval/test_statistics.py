"""Means, intervals and tests against NumPy, SciPy, enumeration and hand calculation."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxflow.errors import InputError
from jaxflow.eval.stats import bootstrap, signed_rank, statistics
from jaxflow.eval.stats.statistics import (
    compare,
    compare_each,
    holm,
    paired_test,
    summarise,
    summarise_each,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_cell_is_numpys_mean_and_std_of_the_defined_values():
    values = rng().uniform(-1, 1, (40, 3))
    values[[2, 5, 7], 1] = np.nan
    cells = summarise(values, 0)
    for cell, mean, std in zip(
        cells, np.nanmean(values, 0), np.nanstd(values, 0, ddof=0), strict=True
    ):
        assert cell.mean == pytest.approx(mean, abs=1e-14)
        assert cell.std == pytest.approx(std, abs=1e-14)
        assert cell.ci95[0] < cell.mean < cell.ci95[1]
    assert [(cell.n, cell.nan) for cell in cells] == [(40, 0), (37, 3), (40, 0)]


def test_the_interval_is_the_normal_one_where_the_mean_is_normal():
    values = rng(1).normal(0.3, 0.4, (1500, 2))
    for cell in summarise(values, 3, resamples=4000):
        error = cell.std / math.sqrt(cell.n)
        # A percentile of 4,000 resamples is itself uncertain by about 0.04 standard errors.
        assert cell.ci95[0] == pytest.approx(cell.mean - 1.96 * error, abs=0.15 * error)
        assert cell.ci95[1] == pytest.approx(cell.mean + 1.96 * error, abs=0.15 * error)


def test_the_interval_is_scipys_percentile_bootstrap_on_skewed_values():
    values = rng(2).exponential(1.0, 25)
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=rng(9)
    ).confidence_interval
    low, high = summarise(values[:, None], 5, resamples=20_000)[0].ci95
    error = values.std() / 5
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.1 * error)
    # Skewed: an interval from the normal distribution would be symmetric about the mean.
    assert high - values.mean() > (values.mean() - low) * 1.05


def test_a_columns_interval_does_not_depend_on_its_neighbours():
    values = rng(3).normal(size=(50, 4))
    values[3, 2] = np.nan
    together = summarise(values, 7)
    alone = [summarise(values[:, [k]], 7)[0] for k in range(4)]
    for left, right in zip(together, alone, strict=True):
        assert left.ci95 == pytest.approx(right.ci95, abs=1e-14)
    assert summarise(values, 8)[0].ci95 != together[0].ci95


def test_resampling_in_blocks_draws_the_same_sentences(monkeypatch):
    values = rng(4).normal(size=(31, 2))
    whole = summarise(values, 1)
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)
    for left, right in zip(whole, summarise(values, 1), strict=True):
        assert left.ci95 == pytest.approx(right.ci95, abs=1e-14)


def test_few_or_no_defined_values_have_a_defined_result():
    values = np.full((3, 3), np.nan)
    values[0, 1] = 0.25
    values[:, 2] = 0.5
    empty, single, constant = summarise(values, 0)
    assert (empty.n, empty.nan) == (0, 3)
    assert np.isnan([empty.mean, empty.std, *empty.ci95]).all()
    assert (single.mean, single.std, single.n, single.nan) == (0.25, 0.0, 1, 2)
    assert np.isnan(single.ci95).all()
    assert (constant.mean, constant.std, constant.ci95) == (0.5, 0.0, (0.5, 0.5))
    assert np.isnan(summarise(np.empty((0, 1)), 0)[0].mean)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 2, 2)), np.array([[0.0, np.inf]])])
def test_what_is_no_table_of_scores_is_refused(values):
    with pytest.raises(InputError, match="values must"):
        summarise(values, 0)


def test_a_small_sample_without_ties_has_scipys_exact_p():
    a, b = rng(5).normal(size=(2, 12))
    oracle = scipy.stats.wilcoxon(a, b, method="exact")
    assert paired_test(a, b).p == pytest.approx(oracle.pvalue, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.3])
def test_a_large_sample_with_ties_and_zeros_has_scipys_p(shift):
    a = np.round(rng(6).normal(size=300), 1) + shift
    b = np.round(rng(7).normal(size=300), 1)
    b[:20] = a[:20]
    oracle = scipy.stats.wilcoxon(np.round(a - b, 12), zero_method="pratt", correction=False)
    result = paired_test(a, b)
    assert result.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert result.difference == pytest.approx((a - b).mean(), abs=1e-12)
    assert result.n == 300


@pytest.mark.parametrize(
    "differences",
    [[1, 1, 2, -2, 3, 0], [0, 0, 0, 5], [0.5, 0.5, 0.5, 0.5, -0.5], [3, -1, 0, 0, 2, 2, -1, 4]],
)
def test_a_small_sample_with_ties_and_zeros_has_the_p_of_all_sign_patterns(differences):
    differences = np.array(differences, float)
    ranks = scipy.stats.rankdata(abs(differences)) * (differences != 0)
    seen = ranks @ np.sign(differences)
    signs = itertools.product([-1, 1], repeat=int(np.count_nonzero(ranks)))
    sums = np.array([ranks[ranks > 0] @ np.array(pattern) for pattern in signs])
    result = paired_test(differences, np.zeros(len(differences)))
    assert result.p == pytest.approx((abs(sums) >= abs(seen) - 1e-9).mean(), rel=1e-12)
    assert result.rank_biserial == pytest.approx(seen / ranks.sum(), abs=1e-12)


def test_the_exact_and_the_normal_p_agree_where_one_takes_over(monkeypatch):
    a, b = rng(8).normal(size=(2, 50)) + np.array([[0.6], [0.0]])
    exact = paired_test(a, b).p
    monkeypatch.setattr(signed_rank, "_EXACT", 10)
    assert 0.001 < exact < 0.5
    assert paired_test(a, b).p == pytest.approx(exact, rel=0.05)


def test_the_interval_of_a_paired_test_is_that_of_the_mean_difference():
    a, b = rng(9).normal(size=(2, 80))
    result = paired_test(a, b, seed=4)
    assert result.ci95 == pytest.approx(summarise((a - b)[:, None], 4)[0].ci95, abs=1e-9)


def test_swapping_the_sides_changes_signs_only():
    a, b = rng(10).normal(size=(2, 70))
    forward, back = paired_test(a, b), paired_test(b, a)
    assert back.p == pytest.approx(forward.p, rel=1e-12)
    assert back.difference == -forward.difference
    assert back.rank_biserial == pytest.approx(-forward.rank_biserial)


def test_only_sentences_with_both_sides_count():
    a, b = rng(11).normal(size=(2, 30))
    a[:4], b[3:9] = np.nan, np.nan
    result, kept = paired_test(a, b), paired_test(a[9:], b[9:])
    assert (result.n, result.nan, kept.nan) == (21, 9, 0)
    assert (result.p, result.difference, result.ci95) == (kept.p, kept.difference, kept.ci95)


def test_equal_but_for_rounding_is_no_difference():
    a = rng(12).uniform(-1, 1, 200)
    result = paired_test(a, a + 1e-15)
    assert (result.p, result.difference, result.rank_biserial) == (1.0, 0.0, 0.0)
    assert result.ci95 == (0.0, 0.0)


def test_fewer_than_two_sentences_are_no_test():
    nothing = paired_test([np.nan, 1.0], [1.0, np.nan])
    assert (nothing.n, nothing.nan) == (0, 2)
    assert np.isnan([nothing.p, nothing.difference, *nothing.ci95]).all()
    for one in (paired_test([0.5], [0.25]), paired_test([0.5, np.nan], [0.25, 1.0])):
        assert (one.n, one.difference) == (1, 0.25)
        assert np.isnan([one.p, *one.ci95]).all()
    assert math.isnan(paired_test([0.5], [0.5]).p)


def test_many_pairs_at_once_are_the_same_tests():
    a, b = rng(13).normal(size=(2, 40, 3))
    a[5, 1] = np.nan
    for k, result in enumerate(compare(a - b, seed=2)):
        alone = paired_test(a[:, k], b[:, k], seed=2)
        assert (result.p, result.n, result.nan) == (alone.p, alone.n, alone.nan)
        assert result.ci95 == pytest.approx(alone.ci95, abs=1e-14)


def test_unequal_lengths_are_refused():
    with pytest.raises(InputError, match=r"same sentences, got \(3,\) and \(2,\)"):
        paired_test(np.zeros(3), np.zeros(2))


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, the last raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_does_not_count_what_was_not_tested():
    adjusted = holm([math.nan, 0.02, 0.03])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx((0.04, 0.04))
    assert all(map(math.isnan, holm([math.nan])))


def test_columns_that_come_one_by_one_have_the_same_results(monkeypatch):
    values = rng(8).normal(0.2, 1, size=(60, 5))
    values[7, 1], values[[3, 9], 2] = np.nan, np.nan
    cells, tests = summarise(values, 2), compare(values, seed=2)
    monkeypatch.setattr(statistics, "_HELD", 2 * 8 * 60)  # two columns at a time
    for whole, parts in (
        (cells, summarise_each(iter(values.T), 2)),
        (tests, compare_each(iter(values.T), seed=2)),
    ):
        for left, right in zip(whole, parts, strict=True):
            assert left.ci95 == pytest.approx(right.ci95, abs=1e-14)
            assert dataclasses.replace(left, ci95=right.ci95) == right


def test_columns_that_lack_different_sentences_share_their_resamples(monkeypatch):
    """As many are drawn for both, so that they are drawn once; each has its own interval."""
    values = rng(9).normal(size=(40, 2))
    values[3, 0], values[8, 1] = np.nan, np.nan
    drawn, draw = [], bootstrap._drawn
    monkeypatch.setattr(bootstrap, "_drawn", lambda n, *rest: drawn.append(n) or draw(n, *rest))
    together = summarise(values, 7)
    assert drawn == [39]
    for k, cell in enumerate(together):
        kept = np.delete(values[:, k], [3, 8][k])
        indices = np.random.default_rng(7).integers(0, 39, (2000, 39))
        expected = np.quantile(kept[indices].mean(1), [0.025, 0.975])
        assert cell.ci95 == pytest.approx(tuple(expected), abs=1e-14)


def test_many_sentences_are_drawn_and_multiplied_in_blocks(monkeypatch):
    """The definition itself, with every size of block that there is."""
    values = rng(10).normal(size=(300, 3))
    indices = np.random.default_rng(4).integers(0, 300, (50, 300))
    expected = np.quantile(values[indices].mean(1), [0.025, 0.975], axis=0)
    for block, counts in [(4_000_000, 64_000_000), (700, 3_000), (250, 64_000_000), (100, 100)]:
        monkeypatch.setattr(bootstrap, "_BLOCK", block)
        monkeypatch.setattr(bootstrap, "_COUNTS", counts)
        found = np.array([cell.ci95 for cell in summarise(values, 4, resamples=50)])
        np.testing.assert_allclose(found.T, expected, atol=1e-14)
