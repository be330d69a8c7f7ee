"""An axis of ranks that leaves out the wide gaps, so that those who are close stay apart."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["RankAxis", "fit_ranks"]

WIDE = 0.2  # of all ranks shown: wider gaps are left out
BREAK = 0.3  # inches that stand for one
MARGIN = 0.03  # of the ranks kept: beyond the first and last of each piece
TICKS = 8
STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclasses.dataclass(frozen=True)
class RankAxis:
    """Pieces of ranks, each drawn on the same scale.

    Attributes
    ----------
    pieces
        ``(lowest rank, highest rank)`` of each, ascending.
    starts
        Where each begins, in inches.
    scale
        Inches a rank.
    step
        Ranks from tick to tick.
    """

    pieces: tuple[tuple[float, float], ...]
    starts: tuple[float, ...]
    scale: float
    step: float

    def at(self, rank: float) -> float:
        """Return where a rank of one of the pieces is, in inches."""
        for (low, high), start in zip(self.pieces, self.starts, strict=True):
            if low <= rank <= high:
                return start + (rank - low) * self.scale
        raise ValueError(f"rank must be on the axis {self.pieces}, got {rank}")

    def spans(self) -> list[tuple[float, float]]:
        """Return where each piece begins and ends, in inches."""
        return [(self.at(low), self.at(high)) for low, high in self.pieces]

    def ticks(self) -> list[float]:
        """Return the multiples of the step on the pieces."""
        found: list[float] = []
        for low, high in self.pieces:
            first, last = np.ceil(low / self.step), np.floor(high / self.step)
            found += [float(k) * self.step for k in np.arange(first, last + 1)]
        return found


def fit_ranks(ranks: NDArray[np.floating], left: float, right: float) -> RankAxis:
    """Fit ranks between two places.

    Parameters
    ----------
    ranks
        ``[K]``, all finite.
    left, right
        In inches.
    """
    ascending = np.unique(np.asarray(ranks, np.float64))
    whole = max(float(ascending[-1] - ascending[0]), 1.0)
    gaps = np.diff(ascending)
    wide = np.flatnonzero(gaps > WIDE * whole)
    # With few entrants every gap is a wide one, and nothing is crowded.
    if len(ascending) < 10:
        wide = wide[:0]
    ends = [*ascending[wide], ascending[-1]]
    begins = [ascending[0], *ascending[wide + 1]]
    margin = MARGIN * (whole - float(gaps[wide].sum()))
    pieces = tuple(
        (float(begin) - margin, float(end) + margin)
        for begin, end in zip(begins, ends, strict=True)
    )
    kept = sum(high - low for low, high in pieces)
    scale = (right - left - BREAK * len(wide)) / max(kept, 1e-9)
    starts, place = [], left
    for low, high in pieces:
        starts.append(place)
        place += (high - low) * scale + BREAK
    step = next((step for step in STEPS if kept / step <= TICKS), STEPS[-1])
    return RankAxis(pieces, tuple(starts), scale, float(step))
