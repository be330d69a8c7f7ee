"""Test permutation tests against all sign choices and SciPy, ranks and groups by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom, rankdata

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.summary import Significance, compare, permutation_tests
from jaxflow.eval.stats import holm

RNG = np.random.default_rng(5)
#: Four standard deviations of a share estimated from 400 hits.
ROUGH = 4 / np.sqrt(400)


def exact(differences):
    """The share of all sign choices that reach the observed sum."""
    observed = abs(differences.sum())
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    sums = abs(signs @ differences)
    return np.mean(sums >= observed - 1e-12)


def test_p_values_are_those_of_all_sign_choices_of_the_sentences_that_both_have():
    values = RNG.normal(size=(5, 10)) + np.array([[0], [0.2], [0.8], [1.5], [0]])
    values[1, [2, 5]] = np.nan
    values[2, 5:] = np.nan
    values[4] = np.nan
    found = permutation_tests(values, permutations=60_000)
    for a, b in itertools.combinations(range(4), 2):
        both = ~np.isnan(values[a]) & ~np.isnan(values[b])
        expected = exact(values[a, both] - values[b, both])
        assert found[a, b] == pytest.approx(expected, abs=0.002, rel=ROUGH)
        assert found[a, b] == found[b, a]
    assert np.isnan(np.diag(found)).all()
    assert np.isnan(found[4]).all()


def test_hundreds_of_sentences_are_decided_without_many_choices():
    """The bound is an upper one, so that no pair is called different that is not."""
    steps = np.ones(400)
    steps[:60] = -1
    values = np.stack([np.zeros(400), steps])
    bound = 2 * np.exp(-(280**2) / (2 * 400))
    assert permutation_tests(values, permutations=1000)[0, 1] == pytest.approx(bound)
    # Of 400 signs at least 340 alike, or at most 60: the binomial tail, exactly.
    assert 2 * binom.cdf(60, 400, 0.5) < bound


def test_equal_methods_do_not_differ():
    values = np.repeat(RNG.normal(size=(1, 20)), 2, axis=0)
    assert permutation_tests(values, permutations=1000)[0, 1] == 1
    with pytest.raises(InputError, match="finite or NaN"):
        permutation_tests(np.array([[np.inf, 1]]))


def test_a_comparison_ranks_and_corrects():
    values = RNG.normal(size=(4, 200)) + np.array([[0], [0.02], [1], [2]])
    found = compare(values, permutations=20_000)
    np.testing.assert_allclose(found.ranks, rankdata(-values, axis=0).mean(-1))
    upper = np.triu_indices(4, 1)
    plain = permutation_tests(values, permutations=20_000)
    np.testing.assert_allclose(found.p_holm[upper], holm(plain[upper].tolist()))
    np.testing.assert_array_equal(found.p_holm[upper], found.p_holm.T[upper])
    assert found.sentences == 200
    assert found.groups() == [tuple(np.argsort(found.ranks)[2:].tolist())]
    backwards = compare(values, high_is_good=False, permutations=100)
    np.testing.assert_allclose(backwards.ranks, 5 - found.ranks)


def test_a_method_without_any_value_has_no_rank():
    values = RNG.normal(size=(4, 30))
    values[1] = np.nan
    values[2, 4:9] = np.nan
    found = compare(values, permutations=100)
    kept = np.delete(np.delete(values, np.arange(4, 9), axis=1), 1, axis=0)
    np.testing.assert_allclose(found.ranks[[0, 2, 3]], rankdata(-kept, axis=0).mean(-1))
    assert np.isnan(found.ranks[1])
    assert found.sentences == 25
    assert all(1 not in group for group in found.groups())


def test_groups_are_the_longest_rows_without_a_difference():
    ranks = np.array([3.0, 1.0, 2.0, 4.0])
    p = np.full((4, 4), 0.5)

    def differ(a, b):
        p[a, b] = p[b, a] = 0.01

    differ(1, 0)
    differ(1, 3)
    assert Significance(ranks, p, 9).groups() == [(1, 2), (2, 0, 3)]
    differ(2, 3)
    assert Significance(ranks, p, 9).groups() == [(1, 2), (2, 0), (0, 3)]
