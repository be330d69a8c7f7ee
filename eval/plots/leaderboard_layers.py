"""How measures of the leaderboard change from layer to layer, for a few methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES
from jaxflow.eval.leaderboard.summary import TITLES, Line, Summary
from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    MARKERS,
    Look,
    add_legend,
    dress,
    finish,
    layer_axis,
    look,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_layers"]

#: What is drawn if nothing else is asked for, beside the best -> its name in other figures.
_USUAL = {"raw/none": "raw", "raw/rollout": "rollout", "raw/flow": "flow"}
_BEST = 3


def draw_layers(
    summary: Summary,
    measure: str = "spearman_blank_out",
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw a measure over layers with 95 % intervals, for a few methods that have layers.

    Parameters
    ----------
    summary
        The board in numbers.
    measure
        One that is worked out for every layer.
    names
        Whom; by default raw attention, its rollout and flow, and the three others that are
        best by this measure at the top.

    Raises
    ------
    InputError
        If there is no such measure, it is known at the top only, or a method has no layers.
    """
    if measure not in TITLES:
        raise InputError(f"measure must be one of {', '.join(TITLES)}, got {measure!r}")
    lines: dict[str, dict[int, Line]] = {}
    for line in summary.lines:
        if line.layer is not None and line.cells[measure].n:
            lines.setdefault(line.method.name, {})[line.layer] = line
    lines = {name: found for name, found in lines.items() if len(found) > 1}
    if not lines:
        raise InputError(f"{measure} must be known of more than one layer to be drawn over layers")
    chosen = _chosen(summary, measure, lines) if names is None else list(names)
    if unknown := [name for name in chosen if name not in lines]:
        raise InputError(f"names must be of methods with layers, got {', '.join(unknown)}")
    figure = new_figure(COLUMN, 2.9)
    title = TITLES[measure].rstrip(" ↑↓")
    axes = dress(figure.add_subplot(), x="layer", y=title, grid="y")
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    handles = []
    for place, name in enumerate(chosen):
        shown = _look(name, place)
        layers = sorted(lines[name])
        cells = [lines[name][layer].cells[measure] for layer in layers]
        x = [layer + 1 for layer in layers]
        low, high = zip(*(cell.ci95 for cell in cells), strict=True)
        axes.fill_between(x, low, high, color=shown.colour, alpha=0.22, linewidth=0, zorder=2)
        handles += axes.plot(
            x,
            [cell.mean for cell in cells],
            label=shown.title,
            color=shown.colour,
            linestyle=shown.dashes,
            linewidth=1.2,
            marker=shown.marker or "None",
            markersize=3.6,
            zorder=3,
        )
    layer_axis(axes, 1 + max(max(found) for found in lines.values()))
    add_legend(figure, handles, columns=2)
    return finish(figure)


def _chosen(summary: Summary, measure: str, lines: Iterable[str]) -> list[str]:
    known = set(lines)
    usual = [name for name in _USUAL if name in known]
    sign = -1 if MEASURES[measure] else 1
    others = {
        line.method.name: sign * line.cells[measure].mean
        for line in summary.finals
        if line.method.name in known and line.method.name not in usual
    }
    return usual + sorted(others, key=lambda name: others[name])[:_BEST]


def _look(name: str, place: int) -> Look:
    """Return the look that a method has in all figures, or one of the cycle."""
    if name in _USUAL:
        shown = look(_USUAL[name])
    else:
        left = [
            colour
            for colour in CYCLE
            if colour not in {look(usual).colour for usual in _USUAL.values()}
        ]
        shown = Look(name, left[place % len(left)], MARKERS[place % len(MARKERS)], "--")
    return dataclasses.replace(shown, title=name)
