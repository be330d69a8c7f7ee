"""Test means, intervals and tests against NumPy, SciPy, enumeration and hand calculation."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxflow.errors import InputError
from jaxflow.eval import stats
from jaxflow.eval.stats import binomial_interval, compare, holm, share_of, summarise


def rng(seed=0):
    return np.random.default_rng(seed)


def paired(a, b, **options):
    return compare((np.asarray(a) - np.asarray(b))[:, None], **options)[0]


def test_a_cell_is_numpys_mean_and_std_of_the_defined_values():
    values = rng().uniform(-1, 1, (40, 3))
    values[[2, 5, 7], 1] = np.nan
    cells = summarise(values, 0)
    found = [(cell.mean, cell.std) for cell in cells]
    np.testing.assert_allclose(found, np.stack([np.nanmean(values, 0), np.nanstd(values, 0)], 1))
    assert all(cell.ci95[0] < cell.mean < cell.ci95[1] for cell in cells)
    assert [(cell.n, cell.nan) for cell in cells] == [(40, 0), (37, 3), (40, 0)]


def test_the_interval_is_scipys_percentile_bootstrap_on_skewed_values():
    values = rng(2).exponential(1.0, 25)
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=rng(9)
    ).confidence_interval
    low, high = summarise(values[:, None], 5, resamples=20_000)[0].ci95
    error = values.std() / 5
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.1 * error)


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
    with pytest.raises(InputError, match="differences must"):
        compare(values)


@pytest.mark.parametrize("lacking", [(), (3, 8)])
def test_resamples_are_shared_and_drawn_in_blocks_of_any_size(monkeypatch, lacking):
    """The definition itself; columns of one n share their draws, whatever sentences they lack."""
    values = rng(10).normal(size=(300, 2))
    for column, row in enumerate(lacking):
        values[row, column] = np.nan
    kept = [column[~np.isnan(column)] for column in values.T]
    indices = np.random.default_rng(4).integers(0, len(kept[0]), (50, len(kept[0])))
    expected = [np.quantile(column[indices].mean(1), [0.025, 0.975]) for column in kept]
    draws, draw = [], stats._drawn
    monkeypatch.setattr(stats, "_drawn", lambda n, *rest: draws.append(n) or draw(n, *rest))
    for block, counts in [(4_000_000, 64_000_000), (700, 3_000), (100, 100)]:
        monkeypatch.setattr(stats, "_BLOCK", block)
        monkeypatch.setattr(stats, "_COUNTS", counts)
        found = [cell.ci95 for cell in summarise(values, 4, resamples=50)]
        np.testing.assert_allclose(found, expected, atol=1e-14)
    assert draws == [len(kept[0])] * 3
    assert summarise(values, 8)[0].ci95 != summarise(values, 4)[0].ci95


def test_columns_that_come_one_by_one_have_the_same_results(monkeypatch):
    values = rng(8).normal(0.2, 1, size=(60, 5))
    values[7, 1], values[[3, 9], 2] = np.nan, np.nan
    cells, tests = summarise(values, 2), compare(values, seed=2)
    monkeypatch.setattr(stats, "_HELD", 2 * 8 * 60)  # two columns at a time
    for whole, parts in (
        (cells, summarise(iter(values.T), 2)),
        (tests, compare(iter(values.T), seed=2)),
    ):
        for left, right in zip(whole, parts, strict=True):
            assert left.ci95 == pytest.approx(right.ci95, abs=1e-14)
            assert dataclasses.replace(left, ci95=right.ci95) == right


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
    result = paired(differences, np.zeros(len(differences)))
    assert result.p == pytest.approx((abs(sums) >= abs(seen) - 1e-9).mean(), rel=1e-12)
    assert result.rank_biserial == pytest.approx(seen / ranks.sum(), abs=1e-12)
    a, b = rng(5).normal(size=(2, 12))  # without ties, SciPy has it exactly
    oracle = scipy.stats.wilcoxon(a, b, method="exact")
    assert paired(a, b).p == pytest.approx(oracle.pvalue, rel=1e-12)


def test_the_exact_and_the_normal_p_agree_where_one_takes_over(monkeypatch):
    a, b = np.round(rng(8).normal(size=(2, 50)) + np.array([[0.6], [0.0]]), 1)
    exact = paired(a, b).p
    monkeypatch.setattr(stats, "_EXACT", 10)
    assert 0.001 < exact < 0.5
    assert paired(a, b).p == pytest.approx(exact, rel=0.05)


def test_sides_sentences_and_intervals_of_a_paired_test():
    a, b = rng(11).normal(size=(2, 90))
    a[:4], b[3:9] = np.nan, np.nan
    result, kept, back = paired(a, b, seed=4), paired(a[9:], b[9:], seed=4), paired(b, a, seed=4)
    assert (result.n, result.nan, kept.nan) == (81, 9, 0)
    assert dataclasses.replace(result, nan=0) == kept
    assert result.difference == pytest.approx(np.nanmean(a - b), abs=1e-12)
    assert result.ci95 == pytest.approx(summarise((a - b)[:, None], 4)[0].ci95, abs=1e-9)
    assert (back.p, back.rank_biserial) == pytest.approx((result.p, -result.rank_biserial))


def test_no_difference_and_fewer_than_two_sentences():
    a = rng(12).uniform(-1, 1, 200)
    same = paired(a, a + 1e-15)  # equal but for rounding
    assert (same.p, same.difference, same.rank_biserial, same.ci95) == (1.0, 0.0, 0.0, (0.0, 0.0))
    nothing = paired([np.nan, 1.0], [1.0, np.nan])
    assert (nothing.n, nothing.nan) == (0, 2)
    assert np.isnan([nothing.p, nothing.difference, *nothing.ci95]).all()
    one = paired([0.5, np.nan], [0.25, 1.0])
    assert (one.n, one.difference) == (1, 0.25)
    assert np.isnan([one.p, *one.ci95, paired([0.5], [0.5]).p]).all()


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, the last raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()
    adjusted = holm([math.nan, 0.02, 0.03])  # what was not tested does not count
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx((0.04, 0.04))


def test_the_bounds_of_a_share_solve_wilsons_equation():
    for successes, n in ((0, 5), (3, 7), (50, 100), (9, 9), (1, 300)):
        share, (low, high) = successes / n, binomial_interval(successes, n)
        assert 0 <= low <= share <= high <= 1
        for bound in {low, high} - {0.0, 1.0}:
            half = 1.959964 * math.sqrt(bound * (1 - bound) / n)
            assert abs(share - bound) == pytest.approx(half, rel=1e-6)
    assert all(map(math.isnan, binomial_interval(0, 0)))


def test_a_tie_is_never_an_agreement():
    found = share_of([True, True, False], [True, False, True])
    assert (found.share, found.n, found.ties) == (0.5, 2, 1)
