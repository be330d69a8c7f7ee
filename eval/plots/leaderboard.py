"""Who is ahead on the leaderboard: the critical-difference picture.

Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006, Figure 1: mean
ranks on an axis, bars that join those of whom no two differ. Here the bars are of paired
permutation tests, not of one critical difference for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.explain.shade import clipped
from jaxflow.eval.leaderboard.methods import BASELINES
from jaxflow.eval.leaderboard.significance import Significance
from jaxflow.eval.plots.rank_axis import RankAxis, fit_ranks
from jaxflow.eval.plots.style import (
    CYCLE,
    GREY,
    INK,
    PAGE,
    SMALL,
    TITLE,
    finish,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_critical_difference"]

MOST = 20  # methods besides the baselines
NAME = 40  # characters of a name
# Inches: an average letter of 7 points, a rank, and what of the width is the axis at least.
LETTER, RANK, NARROWEST = 0.059, 0.33, 2.5
ROW, BAR, NOTE = 0.155, 0.075, 0.14  # inches down from name to name, bar to bar, note to note
OVER = 0.03  # inches that a bar goes beyond what it joins


def draw_critical_difference(
    significance: Significance,
    names: Sequence[str],
    *,
    most: int = MOST,
    always: Sequence[str] = tuple(BASELINES),
    title: str = "",
) -> Figure:
    """Draw mean ranks, with bars that join methods of whom no two differ.

    Parameters
    ----------
    significance
        Of R methods.
    names
        Theirs, R of them.
    most
        So many of the best are drawn.
    always
        Names of methods that are drawn whatever their rank, in grey. How many of the others are
        left out is said in the figure; ranks stay those among all, and bars join what is drawn of
        a group.
    title
        Above the axis.

    Raises
    ------
    InputError
        If names and ranks are not as many, or fewer than two methods have a rank.
    """
    if len(names) != len(significance.ranks):
        raise InputError(
            f"names must be {len(significance.ranks)}, as many as ranks, got {len(names)}"
        )
    order = [int(e) for e in np.argsort(significance.ranks, kind="stable")]
    ranked = [method for method in order if not np.isnan(significance.ranks[method])]
    best = [method for method in ranked if names[method] not in always][:most]
    shown = [method for method in ranked if method in best or names[method] in always]
    if len(shown) < 2:
        raise InputError(
            f"at least two methods must have a mean rank to be drawn, got {len(shown)}: a rank "
            "needs sentences on which every method is defined"
        )
    bars = _joined(significance, shown)
    labels = [clipped(names[method], NAME) for method in shown]
    side = max(len(label) for label in labels) * LETTER + RANK + 0.1
    width = max(PAGE, 2 * side + NARROWEST)
    axis = fit_ranks(significance.ranks[shown], side + 0.12, width - side - 0.12)
    at = [axis.at(float(significance.ranks[method])) for method in shown]
    levels = _levels([(at[begin], at[end]) for begin, end in bars])
    notes = _notes(significance, names, shown, always)

    line = 0.28 + (0.22 if title else 0)  # inches from the top to the axis
    first = line + 0.2 + BAR * (max(levels, default=-1) + 1)
    half = -(-len(shown) // 2)
    height = first + ROW * (half - 0.4) + 0.1 + NOTE * len(notes)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")  # everything has its place
    axes = figure.add_axes((0, 0, 1, 1))  # in inches, from the top
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    _write(axes, width / 2, 0.14, title, INK, size=TITLE)
    _draw_axis(axes, axis, line)
    for level, (begin, end) in zip(levels, bars, strict=True):
        axes.plot(
            [at[begin] - OVER, at[end] + OVER],
            [line + 0.11 + BAR * level] * 2,
            color=CYCLE[1],
            linewidth=2.6,
            solid_capstyle="butt",
            label=" ".join(names[method] for method in shown[begin : end + 1]),
            zorder=3,
        )
    for place, (method, label) in enumerate(zip(shown, labels, strict=True)):
        left = place < half
        down = first + ROW * (place if left else len(shown) - 1 - place)
        edge, away = (side, -1) if left else (width - side, 1)
        grey = names[method] in always
        axes.plot(
            [at[place], at[place], edge],
            [line, down, down],
            color=GREY if grey else INK,
            linestyle=(0, (4, 2)) if grey else "-",
            linewidth=0.7,
            label=names[method],
            zorder=2,
        )
        towards = "right" if left else "left"
        rank = f"{significance.ranks[method]:.1f}"
        _write(axes, edge + 0.04 * away, down, rank, GREY, towards)
        _write(axes, edge + RANK * away, down, label, GREY if grey else INK, towards)
    for place, text in enumerate(reversed(notes)):
        _write(axes, width / 2, height - 0.1 - NOTE * place, text, GREY)
    return finish(figure)


def _joined(significance: Significance, shown: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last place among the shown ones of what is left of each group."""
    place = {method: at for at, method in enumerate(shown)}
    spans: list[tuple[int, int]] = []
    for group in significance.groups():
        kept = [place[method] for method in group if method in place]
        if len(kept) > 1:
            spans.append((min(kept), max(kept)))
    # Of two groups that differ in what is not drawn, the smaller one says nothing.
    return [
        span
        for span in dict.fromkeys(spans)
        if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in spans)
    ]


def _levels(ends: Sequence[tuple[float, float]]) -> list[int]:
    """Put bars, sorted by their beginning, on as few levels as keep them apart."""
    last: list[float] = []
    found = []
    for begin, end in ends:
        level = next((k for k, e in enumerate(last) if begin - e > 4 * OVER), len(last))
        last[level : level + 1] = [end]
        found.append(level)
    return found


def _notes(
    significance: Significance, names: Sequence[str], shown: Sequence[int], always: Sequence[str]
) -> list[str]:
    """Say what bars mean, and who is left out."""
    grey = sum(names[method] in always for method in shown)
    ranked = int((~np.isnan(significance.ranks)).sum())
    notes = [
        f"Mean rank over {significance.sentences:,} sentences among {ranked} methods, 1 is best. "
        "A bar joins methods of which no two differ",
        "(paired permutation tests, Holm-corrected, p ≥ .05).",
    ]
    if ranked > len(shown):
        notes[1] += (
            f" Shown are the best {len(shown) - grey} and {grey} baselines, in grey; "
            f"{ranked - len(shown)} are left out."
        )
    missing = [name for name, rank in zip(names, significance.ranks, strict=True) if np.isnan(rank)]
    if missing:
        few = ", ".join(clipped(name, NAME) for name in missing[:3])
        notes.append(
            f"Without a rank: {few}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        )
    return notes


def _draw_axis(axes: Axes, axis: RankAxis, line: float) -> None:
    """Draw the pieces of the axis with their ticks, and two strokes where ranks are left out."""
    spans = axis.spans()
    for begin, end in spans:
        axes.plot([begin, end], [line, line], color=INK, linewidth=0.9, zorder=2)
    broken = [x for end, begin in itertools.pairwise(spans) for x in (end[1], begin[0])]
    for x in broken:
        axes.plot([x - 0.025, x + 0.025], [line + 0.05, line - 0.05], color=INK, linewidth=0.9)
    for tick in axis.ticks():
        if any(abs(axis.at(tick) - x) < 0.06 for x in broken):
            continue  # it would touch the stroke
        axes.plot([axis.at(tick)] * 2, [line, line - 0.05], color=INK, linewidth=0.7)
        _write(axes, axis.at(tick), line - 0.12, f"{tick:g}", INK)


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    towards: str = "center",
    size: float = SMALL,
) -> None:
    axes.text(
        x, y, text, color=colour, ha=towards, va="center_baseline", fontsize=size, parse_math=False
    )
