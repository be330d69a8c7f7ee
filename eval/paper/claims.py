"""The paper's claims as questions that paired tests can answer.

Each is put as the mean of a per-sentence difference that is positive if the claim is true:

* **C1**, raw attention loses its correlation in higher layers: its correlation at L1 minus its mean
  over the upper half of the layers (L4-L6 of 6).
* **C2**, rollout rises with depth: the rise from the first layer to the last of the straight line
  fitted (least squares) to a sentence's correlations.
* **C3**, flow reaches its plateau earlier (L3) than rollout (L5): what rollout still gains from L3
  (of 6; the layer that ends the lower half) to the top, minus what flow gains. Besides, the plateau
  of the mean curves is located: the first layer from which on every mean is within 0.02 of the
  largest of those means. It takes both, the test and flow's plateau being the lower one.
* **C4**, rollout is focused, flow spread: entropy of flow minus entropy of rollout at the top.
* **C5**, both work from attention alone: rollout's and flow's correlation at the top minus that of
  random scores, and minus that of the position. One run tests this for one model; the paper's "on
  any model" is beyond it.
* **E1-E3** are not the paper's claims but its tables' natural questions: flow against rollout, and
  each of the two against its cheapest substitute (the column sum of A[1], raw attention), at the
  top layer.

The verdict is *holds* or *does not hold* if the signed-rank test, Holm-corrected over all questions
of the run, rejects at .05 and both the mean and the ranks point that way; else *not decided*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.paper.questions import Question, ask
from jaxflow.eval.paper.scores import Scores
from jaxflow.eval.stats import PairedTest, compare, holm

__all__ = ["DOES_NOT_HOLD", "HOLDS", "NOTE", "NOT_DECIDED", "Claim", "judge_claims"]

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_DECIDED = "not decided"

#: What the reader of the verdicts has to know, in one paragraph.
NOTE = (
    "Effects are mean differences per sentence, positive in favour of the claim, with 95 % "
    "bootstrap intervals; p-values are two-sided Wilcoxon signed-rank tests with Holm's correction "
    "over all lines; a verdict needs p < .05. C5 is tested on this model only: that rollout and "
    "flow work on any model is beyond one run."
)

_LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """One claim, tested against one target.

    Attributes
    ----------
    name
        ``C1`` to ``C5``, or ``E1`` to ``E3`` for a question the paper does not ask.
    statement
        What would be true if the claim held.
    target
        ``blank_out`` or ``gradient``; None where the claim is about neither.
    verdict
        ``holds``, ``does not hold`` or ``not decided``.
    effect, ci95
        Mean difference per sentence, positive in favour of the claim, and its 95 % bootstrap
        interval; NaN if undefined.
    p, p_holm
        Two-sided p-value of the signed-rank test, alone and corrected for the number of tests.
    n
        Sentences on which everything compared is defined.
    detail
        The figures behind it, as one sentence.
    """

    name: str
    statement: str
    target: str | None
    verdict: str
    effect: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    n: int
    detail: str


def judge_claims(scores: Scores, seed: int = 0) -> tuple[Claim, ...]:
    """Test every claim on the per-sentence scores of one model.

    Parameters
    ----------
    scores
        Any number of layers; a claim about depth is not decided on a single layer.
    seed
        Of the bootstrap behind the intervals.

    Returns
    -------
    tuple of Claim
        C1, C2, C3 (both targets each), C4, C5 (two scores, two baselines, both targets), E1-E3.
        The module's docstring defines each.
    """
    questions: list[Question] = []

    def differences() -> Iterator[NDArray[np.float64]]:
        for question, difference in ask(scores):
            questions.append(question)
            yield difference

    tests = compare(differences(), seed=seed)
    corrected = holm([test.p for test in tests])
    return tuple(
        Claim(
            name=question.name,
            statement=question.statement,
            target=question.target,
            verdict=_verdict(test, p_holm, question.seen),
            effect=test.difference,
            ci95=test.ci95,
            p=test.p,
            p_holm=p_holm,
            n=test.n,
            detail=question.detail,
        )
        for question, test, p_holm in zip(questions, tests, corrected, strict=True)
    )


def _verdict(test: PairedTest, p_holm: float, seen: bool | None) -> str:
    if not p_holm < _LEVEL:
        return NOT_DECIDED
    if test.difference > 0 and test.rank_biserial > 0 and seen is not False:
        return HOLDS
    if test.difference < 0 and test.rank_biserial < 0 and seen is not True:
        return DOES_NOT_HOLD
    return NOT_DECIDED
