"""Test ranks, tests of all pairs and groups of methods against SciPy and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.summary import Significance, compare
from jaxflow.eval.stats import holm

RNG = np.random.default_rng(5)


def test_a_comparison_ranks_and_corrects():
    """Every pair is tested on the sentences that both have, to rounding of single precision."""
    values = RNG.normal(size=(5, 200)) + np.array([[0], [0.02], [1], [2], [0]])
    values[1, [2, 5]] = np.nan
    values[4] = values[0] + 1e-8 * RNG.normal(size=200)
    found = compare(values)
    expected = []
    for a, b in itertools.combinations(range(5), 2):
        difference = (values[a] - values[b])[~np.isnan(values[a] - values[b])]
        test = wilcoxon(difference, zero_method="pratt", correction=False, method="asymptotic")
        expected.append(1.0 if {a, b} == {0, 4} else test.pvalue)
    upper = np.triu_indices(5, 1)
    np.testing.assert_allclose(found.p_holm[upper], holm(expected), rtol=1e-4)
    np.testing.assert_array_equal(found.p_holm[upper], found.p_holm.T[upper])
    assert np.isnan(np.diag(found.p_holm)).all()
    whole = np.delete(values, [2, 5], axis=1)
    np.testing.assert_allclose(found.ranks, rankdata(-whole, axis=0).mean(-1))
    assert found.sentences == 198
    best = int(np.argmin(found.ranks))
    assert best == 3
    assert all(best not in group for group in found.groups())
    backwards = compare(values, high_is_good=False)
    np.testing.assert_allclose(backwards.ranks, 6 - found.ranks)
    with pytest.raises(InputError, match="finite or NaN"):
        compare(np.array([[np.inf, 1], [0, 1]]))


def test_a_method_without_any_value_has_no_rank():
    values = RNG.normal(size=(4, 30))
    values[1] = np.nan
    values[2, 4:9] = np.nan
    found = compare(values)
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
