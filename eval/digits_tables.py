"""From every image's correlations to the digits' tables."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxflow.eval.digits import ImageScores
from jaxflow.eval.stats import RESAMPLES, Cell, PairedTest, compare, holm, summarise

__all__ = ["PAIRS", "Contrast", "DigitsTables", "build_digits_tables"]

#: Rows whose top layers are compared, image by image.
PAIRS = (
    ("rollout mean", "raw mean"),
    ("flow mean", "rollout mean"),
    ("flow mean", "column sum"),
    ("rollout mean", "random"),
    ("rollout mean", "ink"),
    ("rollout mean", "middle"),
    ("rollout mean, 0.5 discarded", "rollout mean"),
    ("rollout mean, 0.9 discarded", "rollout mean"),
    ("rollout min", "rollout mean"),
    ("rollout max", "rollout mean"),
)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Whether one row agrees better with a target than another, at the top layer.

    Attributes
    ----------
    target, row, other
        Whose correlations are subtracted: `row`'s minus `other`'s.
    test
        Of the differences by image.
    p_holm
        Its p-value, corrected for the number of contrasts.
    """

    target: str
    row: str
    other: str
    test: PairedTest
    p_holm: float


@dataclasses.dataclass(frozen=True)
class DigitsTables:
    """Everything the tables show, one cell per layer, bottom to top.

    Attributes
    ----------
    correlations
        Target -> row -> L cells.
    saturation
        L cells.
    contrasts
        For every target and each of `PAIRS`.
    images, right
        Number of images, and how many of them are classified rightly.
    """

    correlations: dict[str, dict[str, tuple[Cell, ...]]]
    saturation: tuple[Cell, ...]
    contrasts: tuple[Contrast, ...]
    images: int
    right: int


def build_digits_tables(
    scores: ImageScores, seed: int = 0, *, resamples: int = RESAMPLES
) -> DigitsTables:
    """Summarise the scores over the images.

    Parameters
    ----------
    scores
        Of one model.
    seed, resamples
        Of the bootstrap behind the intervals.
    """
    keys = [(target, row) for target in scores.correlations for row in scores.maps]
    columns = [scores.correlations[target][row] for target, row in keys]
    # All columns in one call: they share the bootstrap's resamples.
    cells = summarise(np.concatenate([*columns, scores.saturated], 1), seed, resamples=resamples)
    layers = scores.saturated.shape[1]
    parts = [cells[start : start + layers] for start in range(0, len(cells), layers)]
    correlations: dict[str, dict[str, tuple[Cell, ...]]] = {}
    for (target, row), part in zip(keys, parts, strict=False):
        correlations.setdefault(target, {})[row] = part

    asked = [(target, *pair) for target in scores.correlations for pair in PAIRS]
    differences = [
        scores.correlations[target][row][:, -1] - scores.correlations[target][other][:, -1]
        for target, row, other in asked
    ]
    tests = compare(np.stack(differences, 1), seed=seed, resamples=resamples)
    contrasts = tuple(
        Contrast(*names, test, p)
        for names, test, p in zip(asked, tests, holm([test.p for test in tests]), strict=True)
    )
    right = int((scores.predictions == scores.images.labels).sum())
    return DigitsTables(correlations, parts[-1], contrasts, len(scores.predictions), right)
