"""Test the paper's claims by per-sentence differences, positive if the claim is true.

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
* **E1-E3** are not claims of the paper but questions that its tables raise: flow against rollout,
  and each of the two against its cheapest substitute (the column sum of A[1], raw attention), at
  the top layer.

The verdict is *holds* or *does not hold* if the signed-rank test, Holm-corrected over all questions
of the run, rejects at .05 and both the mean and the ranks point that way; else *not decided*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.paper.scores import TARGETS, SentenceScores
from jaxflow.eval.report import UNDEFINED, short
from jaxflow.eval.stats import PairedTest, compare, holm

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_DECIDED = "not decided"

#: The note printed with the verdicts.
NOTE = (
    "C1 to C5 are claims of the paper, E1 to E3 questions that its tables raise. Effects are mean "
    "differences per sentence, positive in favour of the claim, with 95 % bootstrap intervals; "
    "p-values are two-sided Wilcoxon signed-rank tests with Holm's correction over all lines; a "
    "verdict needs p < .05. C5 is tested on this model only: that rollout and flow work on any "
    "model is beyond one run."
)

_LEVEL = 0.05
# How far below the largest mean a layer may be and still belong to the plateau.
_PLATEAU = 0.02


@dataclass(frozen=True)
class Claim:
    """One claim, tested against one target."""

    name: str  # C1 to C5, or E1 to E3 for a question that is not in the paper
    statement: str
    target: str | None  # blank_out, gradient or gradient_norm; None where the claim is about none
    verdict: str  # holds, does not hold or not decided
    effect: float  # mean difference per sentence, positive in favour of the claim; NaN if undefined
    ci95: tuple[float, float]  # its 95 % bootstrap interval
    p: float  # two-sided, of the signed-rank test
    p_holm: float  # corrected for the number of tests
    n: int  # sentences on which everything compared is defined
    detail: str  # the numbers that support it, as one sentence


# Name, statement, target, detail, whether the mean curves support it (None: they do not matter),
# and differences [S] that are positive where a sentence does.
_Question = tuple[str, str, str | None, str, bool | None, NDArray[np.float64]]


def judge_claims(scores: SentenceScores, seed: int = 0) -> tuple[Claim, ...]:
    """Test every claim on the per-sentence scores of one model.

    Returns C1, C2, C3 (all targets each), C4, C5 (two scores, two baselines, all targets) and
    E1-E3, as the module's docstring defines them. A claim about depth is not decided on a single
    layer; `seed` is that of the bootstrap intervals.
    """
    asked: list[tuple[str, str, str | None, str, bool | None]] = []

    def differences() -> Iterator[NDArray[np.float64]]:
        for *question, difference in _ask(scores):
            asked.append(tuple(question))  # type: ignore[arg-type]
            yield difference

    tests = compare(differences(), seed=seed)
    corrected = holm([test.p for test in tests])
    return tuple(
        Claim(
            name=name,
            statement=statement,
            target=target,
            verdict=_verdict(test, p_holm, curve),
            effect=test.difference,
            ci95=test.ci95,
            p=test.p,
            p_holm=p_holm,
            n=test.n,
            detail=detail,
        )
        for (name, statement, target, detail, curve), test, p_holm in zip(
            asked, tests, corrected, strict=True
        )
    )


def plateau(means: NDArray[np.float64]) -> int | None:
    """Return the first layer from which on every mean of ``[L]`` is within 0.02 of the largest.

    Layers count from 1; at the latest it is the last one, and None if that one's mean is undefined.
    """
    for layer in range(len(means)):
        later = means[layer:]
        # A gap of exactly 0.02 counts as within, whatever its rounding.
        if (later >= later.max() - _PLATEAU - 1e-9).all():
            return layer + 1
    return None


def _verdict(test: PairedTest, p_holm: float, curve: bool | None) -> str:
    if not p_holm < _LEVEL:
        return NOT_DECIDED
    if test.difference > 0 and test.rank_biserial > 0 and curve is not False:
        return HOLDS
    if test.difference < 0 and test.rank_biserial < 0 and curve is not True:
        return DOES_NOT_HOLD
    return NOT_DECIDED


def _ask(scores: SentenceScores) -> Iterator[_Question]:
    """Yield all questions in the order of their names, each computed when it is reached."""
    for question in (_raw_falls, _rollout_rises, _flow_is_earlier):
        for target in TARGETS:
            yield question(scores, target)
    yield _flow_spreads(scores)
    here = "at the top layer, on this model"
    for name, row, baseline, title in (
        ("C5", "rollout", "random", f"random scores {here}"),
        ("C5", "rollout", "position", f"the position {here}"),
        ("C5", "flow", "random", f"random scores {here}"),
        ("C5", "flow", "position", f"the position {here}"),
        ("E1", "flow", "rollout", "rollout at the top layer"),
        ("E2", "flow", "column_sum", "its bound, the column sum of A[1], at the top layer"),
        ("E3", "rollout", "raw", "raw attention at the top layer"),
    ):
        for target in TARGETS:
            yield _better(scores, target, name, row, baseline, title)


def _raw_falls(scores: SentenceScores, target: str) -> _Question:
    raw, half = scores[f"{target}/raw"], scores.layers // 2
    upper = raw[:, half:].mean(1)
    where = f"L{half + 1}-L{scores.layers}"
    detail = f"Raw is {_mean(raw[:, 0])} at L1, {_mean(upper)} on the mean of {where}."
    statement = "raw attention loses its correlation in higher layers"
    return "C1", statement, target, detail, None, raw[:, 0] - upper


def _rollout_rises(scores: SentenceScores, target: str) -> _Question:
    rollout = scores[f"{target}/rollout"]
    depth = np.linspace(0, 1, scores.layers)
    depth -= depth.mean()
    # On a single layer there is no rise: the line through one point is taken as level.
    rise = rollout @ depth / ((depth @ depth) or 1.0)
    means = _means(rollout)
    steps = np.diff(means)
    detail = (
        f"Rollout is {short(means[0])} at L1 and {short(means[-1])} at L{scores.layers}; its mean "
        f"rises in {np.count_nonzero(steps > 0)} of {len(steps)} steps."
    )
    return "C2", "rollout rises with depth", target, detail, None, rise


def _flow_is_earlier(scores: SentenceScores, target: str) -> _Question:
    rollout, flow = (scores[f"{target}/{row}"] for row in ("rollout", "flow"))
    early = (scores.layers + 1) // 2
    gains = [values[:, -1] - values[:, early - 1] for values in (rollout, flow)]
    levels = [plateau(_means(values)) for values in (rollout, flow)]
    names = [UNDEFINED if level is None else f"L{level}" for level in levels]
    detail = (
        f"Flow is level from {names[1]}, rollout from {names[0]}; from L{early} to "
        f"L{scores.layers} rollout gains {_mean(gains[0], sign=True)}, flow "
        f"{_mean(gains[1], sign=True)}."
    )
    earlier = None not in levels and levels[1] < levels[0]  # type: ignore[operator]
    statement = "flow reaches its plateau earlier than rollout"
    return "C3", statement, target, detail, earlier, gains[0] - gains[1]


def _flow_spreads(scores: SentenceScores) -> _Question:
    flow, rollout = (scores[f"entropy/{row}"][:, -1] for row in ("flow", "rollout"))
    detail = (
        f"The entropy at L{scores.layers} is {_mean(flow)} of its maximum for flow and "
        f"{_mean(rollout)} for rollout."
    )
    statement = "rollout is focused, flow spread over more tokens (entropy)"
    return "C4", statement, None, detail, None, flow - rollout


def _better(
    scores: SentenceScores, target: str, name: str, row: str, baseline: str, title: str
) -> _Question:
    ours, other = (scores[f"{target}/{which}"][:, -1] for which in (row, baseline))
    detail = (
        f"At L{scores.layers} {row} is {_mean(ours)}, {baseline.replace('_', ' ')} {_mean(other)}."
    )
    return name, f"{row} correlates better than {title}", target, detail, None, ours - other


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each column over the sentences that define it."""
    count = np.count_nonzero(~np.isnan(values), axis=0)
    return np.where(count > 0, np.nansum(values, axis=0), np.nan) / np.maximum(count, 1)


def _mean(values: NDArray[np.float64], *, sign: bool = False) -> str:
    return short(float(_means(values)), sign=sign)
