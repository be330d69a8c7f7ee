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
    values = RNG.normal(size=(6, 200)) + np.array([[0], [0.02], [1], [2], [0], [0]])
    values[1, [2, 5]] = np.nan
    values[4] = values[0]
    values[4, ::2] += 1e-8 * RNG.normal(size=100)  # the others are ties
    values[5] = np.nan  # a method without any value has no rank, and the others' do without it
    found = compare(values)
    expected = []
    for a, b in itertools.combinations(range(6), 2):
        if b == 5:
            expected.append(np.nan)
            continue
        difference = (values[a] - values[b])[~np.isnan(values[a] - values[b])]
        test = wilcoxon(difference, zero_method="pratt", correction=False, method="asymptotic")
        expected.append(1.0 if {a, b} == {0, 4} else test.pvalue)
    upper = np.triu_indices(6, 1)
    np.testing.assert_allclose(found.p_holm[upper], holm(expected), rtol=1e-4)
    np.testing.assert_array_equal(found.p_holm[upper], found.p_holm.T[upper])
    assert np.isnan(np.diag(found.p_holm)).all()
    whole = np.delete(values[:5], [2, 5], axis=1)
    ranks = [*rankdata(-whole, axis=0).mean(-1), np.nan]
    np.testing.assert_allclose(found.ranks, ranks)
    assert found.sentences == 198
    assert np.nanargmin(found.ranks) == 3
    assert all({3, 5}.isdisjoint(group) for group in found.groups())
    backwards = compare(values, high_is_good=False)
    np.testing.assert_allclose(backwards.ranks, 6 - found.ranks)
    with pytest.raises(InputError, match="finite or NaN"):
        compare(np.array([[np.inf, 1], [0, 1]]))


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
