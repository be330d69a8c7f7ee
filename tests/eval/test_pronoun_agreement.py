"""Test the counts of agreement and their intervals against the definitions."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from pronoun_data import SCHEMA, made_case
from scipy import stats

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.cases import BASELINES, METHODS, agreement
from jaxflow.eval.stats import binomial_interval


def case(odds, weights, pair="", **fields):
    """A case whose methods all have the weights ``[L][2]`` given."""
    schema = dataclasses.replace(SCHEMA, pair=pair)
    return made_case(schema, log_probabilities=(odds - 1.0, -1.0), weights=weights, **fields)


def random_cases(seed, count=40, layers=3):
    """Cases with ties, in pairs but for the last five."""
    rng = np.random.default_rng(seed)
    cases = []
    for place in range(count):
        pair = f"p{place // 2}" if place < count - 5 else f"alone{place}"
        intended = [None, 0, 1][rng.integers(3)]
        made = made_case(
            dataclasses.replace(SCHEMA, pair=pair, intended=intended),
            log_probabilities=(rng.normal() - 1, -1.0),
            weights={name: rng.integers(0, 3, (layers, 2)) / 2 for name in METHODS},
            column_sums=rng.integers(0, 3, 2) / 2,
            distances=tuple(rng.integers(1, 4, 2).tolist()),
        )
        cases.append(made)
    return cases


def side(values):
    return None if values[0] == values[1] else int(values[1] > values[0])


def count(cases, prefers):
    """Agreeing, decided, tied: by asking every sentence."""
    asked = [(side(each.log_probabilities), prefers(each)) for each in cases]
    tied = sum(its is None for _, its in asked)
    return sum(mine == its for mine, its in asked), len(cases) - tied, tied


def count_pairs(cases, prefers):
    """The same of pairs between which the model turns: both sentences must agree."""
    agree = decided = tied = 0
    for pair in itertools.combinations(cases, 2):
        mine = [side(each.log_probabilities) for each in pair]
        if pair[0].schema.pair != pair[1].schema.pair or mine[0] == mine[1]:
            continue
        its = [prefers(each) for each in pair]
        tied += None in its
        decided += None not in its
        agree += its == mine
    return agree, decided, tied


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_counts(seed):
    cases = random_cases(seed)
    found = agreement(cases)

    def check(share, counts):
        agree, decided, tied = counts
        assert (share.n, share.ties) == (decided, tied)
        assert share.share == pytest.approx(agree / decided)
        assert share.ci95 == binomial_interval(agree, decided)

    for table, counter in ((found.sentences, count), (found.turned, count_pairs)):
        assert set(table.methods) == set(METHODS)
        assert set(table.baselines) == set(BASELINES)
        for name, layer in itertools.product(METHODS, range(3)):
            counts = counter(cases, lambda each, n=name, k=layer: side(each.weights[n][k]))
            check(table.methods[name][layer], counts)
        check(table.baselines["column_sum"], counter(cases, lambda each: side(each.column_sums)))
        nearest = counter(cases, lambda each: side([-d for d in each.distances]))
        check(table.baselines["nearest"], nearest)
        check(table.baselines["first"], counter(cases, lambda each: 0))
    meant = [each for each in cases if each.schema.intended is not None]
    check(found.model_intended, count(meant, lambda each: each.schema.intended))
    check(found.model_first, count(cases, lambda each: 0))
    assert found.undecided == 0


def test_sentences_without_a_preference_are_left_out_and_counted():
    cases = [case(0, [[0.6, 0.4]]), case(1, [[0.6, 0.4]]), case(1, [[0.4, 0.4 + 1e-12]])]
    found = agreement(cases)
    (share,) = found.sentences.methods["raw"]
    assert (share.share, share.n, share.ties) == (1, 1, 1)
    assert found.undecided == 1
    assert (found.model_first.n, found.model_first.ties) == (2, 1)
    # No intention is known, and sentences without a pair's name are no pair.
    assert found.model_intended.n == found.turned.baselines["first"].n == 0
    assert math.isnan(found.model_intended.share)
    assert math.isnan(found.turned.methods["raw"][0].share)
    with pytest.raises(InputError, match="at least one sentence"):
        agreement([])


def test_correlations_are_scipys():
    cases = random_cases(7)
    found = agreement(cases)
    odds = [each.log_odds for each in cases]
    for name in METHODS:
        for layer, cell in enumerate(found.correlations[name]):
            shares = []
            for each in cases:
                first, second = each.weights[name][layer]
                shares.append((first - second) / (first + second) if first + second else 0.0)
            assert cell.rho == pytest.approx(stats.spearmanr(shares, odds).statistic)
            assert cell.n == len(cases)
            # Fisher's transformation, backwards: half the width is z times Bonett and Wright's.
            low, high = np.arctanh(cell.ci95)
            error = math.sqrt((1 + cell.rho**2 / 2) / (len(cases) - 3))
            assert (low + high) / 2 == pytest.approx(math.atanh(cell.rho))
            assert high - low == pytest.approx(2 * stats.norm.ppf(0.975) * error)


def test_a_correlation_of_one_and_one_that_is_undefined():
    cases = [case(k, [[k, 1.0]]) for k in range(1, 8)]
    (cell,) = agreement(cases).correlations["raw"]
    assert cell.rho == pytest.approx(1)
    assert all(bound == pytest.approx(1, abs=1e-9) for bound in cell.ci95)
    (cell,) = agreement([case(k, [[0.5, 0.5]]) for k in range(1, 8)]).correlations["raw"]
    assert all(map(math.isnan, (cell.rho, *cell.ci95)))
