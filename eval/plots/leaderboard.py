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
from jaxflow.eval.leaderboard.contest import Contest
from jaxflow.eval.leaderboard.entrants import BASELINES
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

MOST = 20  # entrants besides the baselines
NAME = 40  # characters of a name
# Inches: an average letter of 7 points, a rank, and what of the width is the axis at least.
LETTER, RANK, NARROWEST = 0.059, 0.33, 2.5
ROW, BAR, NOTE = 0.155, 0.075, 0.14  # inches down from name to name, bar to bar, note to note
OVER = 0.03  # inches that a bar goes beyond what it joins


def draw_critical_difference(
    contest: Contest,
    names: Sequence[str],
    *,
    most: int = MOST,
    always: Sequence[str] = tuple(BASELINES),
    title: str = "",
) -> Figure:
    """Draw mean ranks, with bars that join entrants of whom no two differ.

    Parameters
    ----------
    contest
        Of R entrants.
    names
        Theirs, R of them.
    most
        So many of the best are drawn.
    always
        Names of entrants that are drawn whatever their rank, in grey. How many of the others are
        left out is said in the figure; ranks stay those among all, and bars join what is drawn of
        a group.
    title
        Above the axis.

    Raises
    ------
    InputError
        If names and ranks are not as many, or fewer than two entrants have a rank.
    """
    if len(names) != len(contest.ranks):
        raise InputError(f"names must be {len(contest.ranks)}, as many as ranks, got {len(names)}")
    order = [int(e) for e in np.argsort(contest.ranks, kind="stable")]
    ranked = [entrant for entrant in order if not np.isnan(contest.ranks[entrant])]
    best = [entrant for entrant in ranked if names[entrant] not in always][:most]
    shown = [entrant for entrant in ranked if entrant in best or names[entrant] in always]
    if len(shown) < 2:
        raise InputError(
            f"at least two entrants must have a mean rank to be drawn, got {len(shown)}: a rank "
            "needs sentences on which every entrant is defined"
        )
    bars = _joined(contest, shown)
    labels = [clipped(names[entrant], NAME) for entrant in shown]
    side = max(len(label) for label in labels) * LETTER + RANK + 0.1
    width = max(PAGE, 2 * side + NARROWEST)
    axis = fit_ranks(contest.ranks[shown], side + 0.12, width - side - 0.12)
    at = [axis.at(float(contest.ranks[entrant])) for entrant in shown]
    levels = _levels([(at[begin], at[end]) for begin, end in bars])
    notes = _notes(contest, names, shown, always)

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
            label=" ".join(names[entrant] for entrant in shown[begin : end + 1]),
            zorder=3,
        )
    for place, (entrant, label) in enumerate(zip(shown, labels, strict=True)):
        left = place < half
        down = first + ROW * (place if left else len(shown) - 1 - place)
        edge, away = (side, -1) if left else (width - side, 1)
        grey = names[entrant] in always
        axes.plot(
            [at[place], at[place], edge],
            [line, down, down],
            color=GREY if grey else INK,
            linestyle=(0, (4, 2)) if grey else "-",
            linewidth=0.7,
            label=names[entrant],
            zorder=2,
        )
        towards = "right" if left else "left"
        rank = f"{contest.ranks[entrant]:.1f}"
        _write(axes, edge + 0.04 * away, down, rank, GREY, towards)
        _write(axes, edge + RANK * away, down, label, GREY if grey else INK, towards)
    for place, text in enumerate(reversed(notes)):
        _write(axes, width / 2, height - 0.1 - NOTE * place, text, GREY)
    return finish(figure)


def _joined(contest: Contest, shown: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last place among the shown ones of what is left of each group."""
    place = {entrant: at for at, entrant in enumerate(shown)}
    spans: list[tuple[int, int]] = []
    for group in contest.groups():
        kept = [place[entrant] for entrant in group if entrant in place]
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
    contest: Contest, names: Sequence[str], shown: Sequence[int], always: Sequence[str]
) -> list[str]:
    """Say what bars mean, and who is left out."""
    grey = sum(names[entrant] in always for entrant in shown)
    ranked = int((~np.isnan(contest.ranks)).sum())
    notes = [
        f"Mean rank over {contest.sentences:,} sentences among {ranked} methods, 1 is best. A bar "
        "joins methods of which no two differ",
        "(paired permutation tests, Holm-corrected, p ≥ .05).",
    ]
    if ranked > len(shown):
        notes[1] += (
            f" Shown are the best {len(shown) - grey} and {grey} baselines, in grey; "
            f"{ranked - len(shown)} are left out."
        )
    missing = [name for name, rank in zip(names, contest.ranks, strict=True) if np.isnan(rank)]
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
