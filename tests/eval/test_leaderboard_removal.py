"""Test removal against loops over sentences, and agreement against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import (
    kept_sets,
    rank_correlations,
    ranking,
    removal_measures,
)
from jaxflow.eval.leaderboard.cases import Cases
from jaxflow.eval.leaderboard.scoring import set_probabilities

RNG = np.random.default_rng(2)
BLANK = 2


def cases():
    lengths = np.array([6, 3, 1, 5])
    tokens = np.where(np.arange(6) < lengths[:, None], RNG.integers(3, 9, (4, 6)), 0)
    tokens[:, 0] = 1
    labels, readout, subject = np.array([0, 1, 1, 0]), np.zeros(4, int), np.full(4, -1)
    return Cases(tokens.astype(np.int32), lengths, labels, tokens <= 1, readout, subject)


def predict(tokens, mask):
    """A class's probability that knows every token, its place, and padding without a mask."""
    score = (np.sin(1 + tokens * (1.0 + np.arange(tokens.shape[1]))) * mask).sum(-1)
    share = 1 / (1 + np.exp(-score))
    return np.stack([share, 1 - share], -1)


def test_curves_are_those_of_a_loop():
    found = cases()
    scores = RNG.integers(0, 3, (5, 4, 6)).astype(float)  # with ties
    for sentence, label in enumerate(found.labels):
        can = found.removable[sentence]
        places = np.flatnonzero(can)
        without, alone = kept_sets(ranking(scores[:, sentence], can))
        known = np.unique(np.concatenate([without.ravel(), alone.ravel()]))
        sets = [np.zeros(0, np.uint64)] * 4
        sets[sentence] = known
        values = set_probabilities(predict, found, sets, BLANK, at_once=42)[sentence]
        for row, step in np.ndindex(5, 11):
            best_first = sorted(places, key=lambda place: (-scores[row, sentence, place], place))
            k = -(-step * len(places) // 10)
            for kept, blank in ((without, best_first[:k]), (alone, best_first[k:])):
                tokens = found.tokens[[sentence]].copy()
                tokens[0, blank] = BLANK
                expected = predict(tokens, tokens != 0)[0, label]
                assert values[np.searchsorted(known, kept)][row, step] == pytest.approx(expected)


def test_measures_are_those_of_their_definitions():
    without = np.array([[0.9, 0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.2, 0.2]])
    alone = np.array([[0.2, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9]])
    found = {name: values[0] for name, values in removal_measures(without, alone).items()}
    assert found["comprehensiveness"] == pytest.approx((0.4 + 0.4 + 0.5 + 0.5 + 0.6) / 5)
    assert found["sufficiency"] == pytest.approx((0.3 + 0.3 + 0.2 + 0.2 + 0.1) / 5)
    areas = (0.4 + 0.4 + 0.5 + 0.5 + 0.6 + 0.6 + 0.6 + 0.6 + 0.7 + 0.7) / 10
    assert found["comprehensiveness_area"] == pytest.approx(areas)
    areas = (0.7 + 0.3 + 0.3 + 0.2 + 0.2 + 0.1 + 0.1) / 10
    assert found["sufficiency_area"] == pytest.approx(areas)
    assert found["deletion_auc"] == pytest.approx((4.3 - 0.9 / 2 - 0.2 / 2) / 10)
    assert found["insertion_auc"] == pytest.approx((8.0 - 0.2 / 2 - 0.9 / 2) / 10)


def test_more_tokens_than_bits_are_refused():
    with pytest.raises(InputError, match="at most 63 tokens to remove, got 64"):
        kept_sets(np.arange(64)[None])
    without, alone = kept_sets(np.arange(63)[None])
    assert int(without[0, 0]) == int(alone[0, -1]) == (1 << 63) - 1


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_rank_correlations_are_those_of_scipy(n, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (3, 10)).astype(np.float32)
    reference = rng.integers(0, levels + 2, 10).astype(np.float32)
    mask = np.zeros(10, bool)
    mask[rng.permutation(10)[:n]] = True
    spearman, kendall = rank_correlations(scores, reference, mask)
    for row in range(3):
        some, other = scores[row, mask], reference[mask]
        constant = len(set(some)) == 1 or len(set(other)) == 1
        assert np.isnan(spearman[row]) == np.isnan(kendall[row]) == constant
        if not constant:
            np.testing.assert_allclose(spearman[row], spearmanr(some, other).statistic, atol=1e-5)
            np.testing.assert_allclose(kendall[row], kendalltau(some, other).statistic, atol=1e-5)
