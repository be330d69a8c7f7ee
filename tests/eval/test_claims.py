"""Test the claims on scores for which they are known to hold or not to hold."""

import math
from collections import Counter

import numpy as np
import pytest

from jaxflow.eval.paper import tables as paper
from jaxflow.eval.paper.claims import DOES_NOT_HOLD, HOLDS, NOT_DECIDED, judge_claims, plateau
from jaxflow.eval.paper.scores import TARGETS

PAPER = {
    row: np.array([mean for mean, _ in paper.AGREEMENT.tables["blank_out"][row]])
    for row in ("raw", "rollout", "flow")
}
SPREAD = {"rollout": 0.4, "flow": 0.7}


def verdicts(claims, name):
    return {claim.verdict for claim in claims if claim.name == name}


def test_scores_like_the_papers_support_its_claims(make_scores):
    claims = judge_claims(make_scores(PAPER, SPREAD, noise=0.01))
    for name in ("C1", "C2", "C3", "C4", "C5"):
        assert verdicts(claims, name) == {HOLDS}, name
    for claim in claims:
        assert claim.n == 60
        assert claim.ci95[0] <= claim.effect <= claim.ci95[1]
        assert claim.p <= claim.p_holm
    # Every claim is judged for every target that it is about.
    asked = Counter((claim.name, claim.target) for claim in claims)
    times = {"C1": 1, "C2": 1, "C3": 1, "C5": 4, "E1": 1, "E2": 1, "E3": 1}
    expected = {(name, target): count for name, count in times.items() for target in TARGETS}
    assert asked == {**expected, ("C4", None): 1}


def test_the_opposite_scores_contradict_them(make_scores):
    opposite = {
        "raw": PAPER["raw"][::-1] * [0.2, 0.2, 0.2, 1, 1, 2],
        "rollout": np.array([0.2, 0.0, -0.3, -0.3, -0.3, -0.3]),
        "flow": PAPER["rollout"] - 0.9,
        "random": 0.5,
        "position": 0.5,
        "column_sum": 0.5,
    }
    claims = judge_claims(make_scores(opposite, {"rollout": 0.7, "flow": 0.4}, noise=0.01))
    for name in ("C1", "C2", "C3", "C4", "C5", "E2", "E3"):
        assert verdicts(claims, name) == {DOES_NOT_HOLD}, name
    assert all(claim.effect < 0 for claim in claims if claim.name != "E1")


def test_scores_without_any_difference_decide_nothing(make_scores):
    claims = judge_claims(make_scores(noise=0.0))
    for claim in claims:
        assert (claim.verdict, claim.effect, claim.p, claim.p_holm) == (NOT_DECIDED, 0, 1, 1)
    noisy = judge_claims(make_scores(noise=0.2, seed=5))
    assert {claim.verdict for claim in noisy} == {NOT_DECIDED}


def test_effects_are_the_defined_differences(make_scores):
    claims = {
        claim.name: claim
        for claim in judge_claims(make_scores(PAPER, SPREAD, noise=0.0))
        if claim.target != "gradient"
    }
    assert claims["C1"].effect == pytest.approx(0.69 - (-0.09 + 0.20 + 0.29) / 3)
    slope = np.polyfit(np.arange(6), PAPER["rollout"], 1)[0]
    assert claims["C2"].effect == pytest.approx(5 * slope)
    assert claims["C3"].effect == pytest.approx((0.71 - 0.51) - (0.70 - 0.70))
    assert claims["C4"].effect == pytest.approx(0.3)
    assert claims["E1"].effect == pytest.approx(0.70 - 0.71)
    assert claims["E2"].effect == pytest.approx(0.70)
    assert claims["E3"].effect == pytest.approx(0.71 - 0.29)
    assert claims["C3"].detail == (
        "Flow is level from L3, rollout from L5; from L3 to L6 rollout gains +.20, flow .00."
    )
    assert claims["C2"].detail == (
        "Rollout is .32 at L1 and .71 at L6; its mean rises in 5 of 5 steps."
    )


def test_an_earlier_plateau_needs_both_the_test_and_the_curve(make_scores):
    # Flow falls after L3, so rollout gains more; but no plateau of flow comes before rollout's.
    falling = {
        "rollout": [0.29, 0.35, 0.375, 0.38, 0.38, 0.38],
        "flow": [0.29, 0.36, 0.40, 0.36, 0.35, 0.35],
    }
    claims = [c for c in judge_claims(make_scores(falling, noise=0.004)) if c.name == "C3"]
    assert all(claim.effect > 0 and claim.p_holm < 0.05 for claim in claims)
    assert verdicts(claims, "C3") == {NOT_DECIDED}


def test_a_mean_that_few_sentences_make_is_not_decided_against_the_ranks(make_scores):
    scores = make_scores(noise=0.0, sentences=100)
    # 90 sentences a little better, 10 so much worse that the mean points the other way.
    scores.correlations["blank_out"]["flow"][:, -1] = np.where(np.arange(100) < 90, 0.01, -0.9)
    (claim,) = (c for c in judge_claims(scores) if (c.name, c.target) == ("E1", "blank_out"))
    assert claim.effect < 0
    assert claim.p_holm < 0.05
    assert claim.verdict == NOT_DECIDED


def test_undefined_sentences_are_left_out_of_what_they_touch(make_scores):
    scores = make_scores(PAPER, SPREAD)
    scores.correlations["blank_out"]["raw"][:5, 4] = np.nan
    for target in TARGETS:
        scores.correlations[target]["flow"][:] = np.nan  # never defined
    found = {(claim.name, claim.target): claim for claim in judge_claims(scores)}
    counts = {("C1", "blank_out"): 55, ("C1", "gradient"): 60, ("C2", "blank_out"): 60}
    assert {key: found[key].n for key in counts} == counts
    assert {found[key].verdict for key in counts} == {HOLDS}
    for (name, _), claim in found.items():
        if name in ("C3", "E1", "E2"):
            assert (claim.verdict, claim.n) == (NOT_DECIDED, 0)
            assert "n/a" in claim.detail


@pytest.mark.parametrize(("sentences", "layers"), [(1, 6), (60, 1), (2, 2)])
def test_too_little_to_decide(make_scores, sentences, layers):
    claims = judge_claims(make_scores(sentences=sentences, layers=layers))
    early = [claim for claim in claims if claim.name in ("C1", "C2", "C3")]
    assert {claim.verdict for claim in early} == {NOT_DECIDED}
    if sentences == 1:
        assert {(claim.verdict, claim.n) for claim in claims} == {(NOT_DECIDED, 1)}
        assert all(math.isnan(claim.p_holm) for claim in claims)
    if layers == 1:
        assert {claim.effect for claim in early} == {0.0}


@pytest.mark.parametrize(
    ("means", "layer"),
    [
        (PAPER["rollout"], 5),
        (PAPER["flow"], 3),
        ([mean for mean, _ in paper.AGREEMENT.tables["gradient"]["rollout"]], 5),
        ([0.1, 0.5, 0.5, 0.4, 0.4, 0.4], 4),
        ([0.1, 0.26, 0.24], 2),  # 0.24 < 0.26 - 0.02 in floating point
        ([0.3, 0.3], 1),
        ([0.1, 0.3], 2),
        ([0.1, np.nan], None),
    ],
)
def test_plateau(means, layer):
    assert plateau(np.array(means)) == layer
