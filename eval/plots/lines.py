"""Means with their intervals as lines, and what a legend shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.plots.style import Look
from jaxflow.eval.stats import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cells", "legend_key", "strokes"]


def draw_cells(
    axes: Axes,
    x: NDArray[np.integer],
    cells: Sequence[Cell],
    shown: Look,
    *,
    dashes: str | None = None,
    hollow: bool = False,
) -> Any:
    """Draw means with their intervals as a band; give what the legend shows.

    Parameters
    ----------
    axes
        Where to.
    x, cells
        One cell at each place.
    shown
        The line's look and its title in the legend.
    dashes, hollow
        As for `strokes`.
    """
    low, high = zip(*(cell.ci95 for cell in cells), strict=True)
    axes.fill_between(x, low, high, color=shown.colour, alpha=0.22, linewidth=0, zorder=2)
    means = [cell.mean for cell in cells]
    (line,) = axes.plot(x, means, label=shown.title, zorder=3, **strokes(shown, dashes, hollow))
    return line


def legend_key(title: str, shown: Look, hollow: bool = False) -> Any:
    """Return an entry of a legend that stands for several lines."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=title, **strokes(shown, hollow=hollow))


def strokes(shown: Look, dashes: str | None = None, hollow: bool = False) -> Mapping[str, Any]:
    """Return how matplotlib draws a line of that look, with other dashes or hollow markers."""
    return {
        "color": shown.colour,
        "linestyle": shown.dashes if dashes is None else dashes,
        "linewidth": 0.9 if hollow else 1.2,
        "marker": shown.marker or "None",
        "markersize": 3.6,
        "markeredgewidth": 0.8,
        "markerfacecolor": "white" if hollow else shown.colour,
        "markeredgecolor": shown.colour,
    }
