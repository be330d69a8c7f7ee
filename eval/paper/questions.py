"""The claims as per-sentence differences that are positive if the claim is true.

What each of them compares is defined in `jaxflow.eval.paper.claims`, which tests them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.paper.scores import TARGETS, Scores
from jaxflow.eval.report.text import UNDEFINED, short

__all__ = ["Question", "ask", "plateau"]

# How far below the largest mean a layer may be and still belong to the plateau.
_PLATEAU = 0.02


@dataclass(frozen=True)
class Question:
    """One claim about one target.

    Attributes
    ----------
    name, statement, target, detail
        As in `jaxflow.eval.paper.claims.Claim`.
    seen
        Whether what can be seen without a test speaks for the claim; None if nothing is looked at.
    """

    name: str
    statement: str
    target: str | None
    detail: str
    seen: bool | None = None


# A question and what is to be tested.
_Asked = tuple[Question, NDArray[np.float64]]


def ask(scores: Scores) -> Iterator[_Asked]:
    """All questions about one model, in the order of their names, one worked out after the other.

    Parameters
    ----------
    scores
        Of S sentences and any number of layers.

    Yields
    ------
    (Question, array)
        The array ``[S]`` is positive where a sentence speaks for the claim, NaN where it says
        nothing.
    """
    for question in (_raw_loses, _rollout_rises, _flow_is_earlier):
        for target in TARGETS:
            yield question(scores, target)
    yield _flow_spreads(scores)
    for row in ("rollout", "flow"):
        for baseline, title in (("random", "random scores"), ("position", "the position")):
            statement = f"{row} correlates better than {title} at the top layer, on this model"
            for target in TARGETS:
                yield _better(scores, target, "C5", statement, row, baseline)
    for name, row, baseline, title in (
        ("E1", "flow", "rollout", "rollout"),
        ("E2", "flow", "column_sum", "its bound, the column sum of A[1],"),
        ("E3", "rollout", "raw", "raw attention"),
    ):
        statement = f"{row} correlates better than {title} at the top layer"
        for target in TARGETS:
            yield _better(scores, target, name, statement, row, baseline)


def plateau(means: NDArray[np.float64]) -> int | None:
    """First layer (from 1) from which on every mean is within 0.02 of the largest of them.

    Parameters
    ----------
    means
        ``[L]``, one mean per layer, bottom to top.

    Returns
    -------
    int or None
        The last layer at the latest; None if its mean is undefined.
    """
    for layer in range(len(means)):
        later = means[layer:]
        # A gap of exactly 0.02 counts as within, whatever its rounding.
        if (later >= later.max() - _PLATEAU - 1e-9).all():
            return layer + 1
    return None


def _raw_loses(scores: Scores, target: str) -> _Asked:
    raw, half = scores.correlations[target]["raw"], scores.layers // 2
    upper = raw[:, half:].mean(1)
    where = f"L{half + 1}-L{scores.layers}"
    question = Question(
        "C1",
        "raw attention loses its correlation in higher layers",
        target,
        f"Raw is {short(_means(raw)[0])} at L1, {short(_means(upper)[0])} on the mean of {where}.",
    )
    return question, raw[:, 0] - upper


def _rollout_rises(scores: Scores, target: str) -> _Asked:
    rollout = scores.correlations[target]["rollout"]
    depth = np.linspace(0, 1, scores.layers)
    depth -= depth.mean()
    # On a single layer there is no rise: the line through one point is taken as level.
    rise = rollout @ depth / ((depth @ depth) or 1.0)
    means = _means(rollout)
    steps = np.diff(means)
    question = Question(
        "C2",
        "rollout rises with depth",
        target,
        f"Rollout is {short(means[0])} at L1 and {short(means[-1])} at L{scores.layers}; its mean "
        f"rises in {np.count_nonzero(steps > 0)} of {len(steps)} steps.",
    )
    return question, rise


def _flow_is_earlier(scores: Scores, target: str) -> _Asked:
    rollout, flow = (scores.correlations[target][row] for row in ("rollout", "flow"))
    early = (scores.layers + 1) // 2
    gains = [values[:, -1] - values[:, early - 1] for values in (rollout, flow)]
    levels = [plateau(_means(values)) for values in (rollout, flow)]
    names = [UNDEFINED if level is None else f"L{level}" for level in levels]
    question = Question(
        "C3",
        "flow reaches its plateau earlier than rollout",
        target,
        f"Flow is level from {names[1]}, rollout from {names[0]}; from L{early} to "
        f"L{scores.layers} rollout gains {short(_means(gains[0])[0], sign=True)}, flow "
        f"{short(_means(gains[1])[0], sign=True)}.",
        seen=None not in levels and levels[1] < levels[0],  # type: ignore[operator]
    )
    return question, gains[0] - gains[1]


def _flow_spreads(scores: Scores) -> _Asked:
    flow, rollout = (scores.entropy[row][:, -1] for row in ("flow", "rollout"))
    question = Question(
        "C4",
        "rollout is focused, flow spread over more tokens (entropy)",
        None,
        f"The entropy at L{scores.layers} is {short(_means(flow)[0])} of its maximum for flow and "
        f"{short(_means(rollout)[0])} for rollout.",
    )
    return question, flow - rollout


def _better(
    scores: Scores,
    target: str,
    name: str,
    statement: str,
    row: str,
    baseline: str,
) -> _Asked:
    ours, other = (scores.correlations[target][which][:, -1] for which in (row, baseline))
    title = baseline.replace("_", " ")
    question = Question(
        name,
        statement,
        target,
        f"At L{scores.layers} {row} is {short(_means(ours)[0])}, "
        f"{title} {short(_means(other)[0])}.",
    )
    return question, ours - other


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each column over the sentences that define it, as the tables show it."""
    columns = values.reshape(len(values), -1)
    count = np.count_nonzero(~np.isnan(columns), axis=0)
    return np.where(count > 0, np.nansum(columns, axis=0), np.nan) / np.maximum(count, 1)
