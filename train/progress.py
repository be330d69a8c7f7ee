"""Where a training run is, as whoever shows it is told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

__all__ = ["Progress", "say_line"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes
    ----------
    step, steps
        Steps taken, and of how many.
    message
        A line to show, such as the accuracy after an epoch; empty if there is none.
    loss, accuracy, subject_share
        Mean over the steps since the last report, the loss without the regulariser's term; the
        share is NaN in a run without one.
    """

    step: int
    steps: int
    message: str = ""
    loss: float = math.nan
    accuracy: float = math.nan
    subject_share: float = math.nan


def say_line(report: Callable[[Progress], None], steps: int, message: str) -> None:
    """Report a line that is of no step."""
    report(Progress(0, steps, message))
