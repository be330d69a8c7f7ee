"""Draw the leaderboard's figures: mean ranks with equivalent groups, and measures over layers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.methods import BASELINES
from jaxflow.eval.leaderboard.summary import TITLES, Line, Significance, Summary
from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    INK,
    MARKERS,
    PAGE,
    SMALL,
    TITLE,
    Look,
    add_legend,
    clipped,
    draw_cells,
    dress,
    finish,
    layer_axis,
    look,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDE = 0.2  # of all ranks shown: wider gaps are left out
BREAK = 0.3  # inches drawn for a gap
MARGIN = 0.03  # of the ranks kept: beyond the first and last of each piece
TICKS = 8
STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclasses.dataclass(frozen=True)
class RankAxis:
    """An axis of ranks in inches that leaves out wide gaps, each piece on the same scale."""

    pieces: tuple[tuple[float, float], ...]  # (lowest rank, highest rank) of each, ascending
    starts: tuple[float, ...]  # where each begins
    scale: float  # inches a rank
    step: float  # ranks from tick to tick

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
    """Fit finite ranks ``[K]`` between two places in inches; wide gaps are left out."""
    ascending = np.unique(np.asarray(ranks, np.float64))
    whole = max(float(ascending[-1] - ascending[0]), 1.0)
    gaps = np.diff(ascending)
    wide = np.flatnonzero(gaps > WIDE * whole)
    if len(ascending) < 10:  # every gap is a wide one, and nothing is crowded
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


MOST = 20  # methods besides the baselines
NAME = 40  # characters of a name
# Inches: an average letter of 7 points, a rank, and what of the width is the axis at least.
LETTER, RANK, NARROWEST = 0.059, 0.33, 2.5
ROW, BAR, NOTE = 0.155, 0.075, 0.14  # inches down from name to name, bar to bar, note to note
OVER = 0.03  # inches that a bar goes beyond what it joins


def draw_critical_difference(
    significance: Significance, names: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw mean ranks, with bars that join methods of which no two differ.

    The best are drawn, and the baselines in grey, whatever their rank; the figure states how many
    are left out. Ranks stay those among all methods (Demšar 2006, Figure 1; here bars are
    of paired signed-rank tests, not of one critical difference for all).

    Raises `InputError` if names and ranks are not as many, or fewer than two methods have a rank.
    """
    if len(names) != len(significance.ranks):
        raise InputError(
            f"names must be {len(significance.ranks)}, as many as ranks, got {len(names)}"
        )
    order = [int(e) for e in np.argsort(significance.ranks, kind="stable")]
    ranked = [method for method in order if not np.isnan(significance.ranks[method])]
    best = [method for method in ranked if names[method] not in BASELINES][:MOST]
    shown = [method for method in ranked if method in best or names[method] in BASELINES]
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
    notes = _notes(significance, names, shown)

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
        grey = names[method] in BASELINES
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
    # Of two groups that differ in what is not drawn, the smaller one is redundant.
    return [
        span
        for span in dict.fromkeys(spans)
        if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in spans)
    ]


def _levels(ends: Sequence[tuple[float, float]]) -> list[int]:
    """Assign bars, sorted by their beginning, to the fewest levels on which none overlap."""
    last: list[float] = []
    found = []
    for begin, end in ends:
        level = next((k for k, e in enumerate(last) if begin - e > 4 * OVER), len(last))
        last[level : level + 1] = [end]
        found.append(level)
    return found


def _notes(significance: Significance, names: Sequence[str], shown: Sequence[int]) -> list[str]:
    """Describe the bars, and list the methods that are left out."""
    grey = sum(names[method] in BASELINES for method in shown)
    ranked = int((~np.isnan(significance.ranks)).sum())
    notes = [
        f"Mean rank over {significance.sentences:,} sentences among {ranked} methods, 1 is best. "
        "A bar joins methods of which no two differ",
        "(paired signed-rank tests, Holm-corrected, p ≥ .05).",
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


#: Methods drawn over layers, beside the best -> their names in other figures.
_USUAL = {"raw/none": "raw", "raw/rollout": "rollout", "raw/flow": "flow"}
_BEST = 3
_OVER_LAYERS = "spearman_blank_out"


def draw_layers(summary: Summary) -> Figure:
    """Draw the correlation with blank-out over layers with 95 % intervals, for a few methods.

    They are raw attention, its rollout and flow, and the three others with layers that are best at
    the top. Raises `InputError` if no method is known of more than one layer.
    """
    lines: dict[str, dict[int, Line]] = {}
    for line in summary.lines:
        if line.layer is not None and line.cells[_OVER_LAYERS].n:
            lines.setdefault(line.method.name, {})[line.layer] = line
    lines = {name: found for name, found in lines.items() if len(found) > 1}
    if not lines:
        raise InputError(
            f"{_OVER_LAYERS} must be known of more than one layer to be drawn over layers"
        )
    usual = [name for name in _USUAL if name in lines]
    best = {
        line.method.name: -line.cells[_OVER_LAYERS].mean
        for line in summary.finals
        if line.method.name in lines and line.method.name not in usual
    }
    figure = new_figure(COLUMN, 2.9)
    title = TITLES[_OVER_LAYERS].rstrip(" ↑↓")
    axes = dress(figure.add_subplot(), x="layer", y=title, grid="y")
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    handles = []
    for place, name in enumerate([*usual, *sorted(best, key=best.__getitem__)[:_BEST]]):
        layers = sorted(lines[name])
        cells = [lines[name][layer].cells[_OVER_LAYERS] for layer in layers]
        handles.append(draw_cells(axes, np.array(layers) + 1, cells, _look(name, place)))
    layer_axis(axes, 1 + max(max(found) for found in lines.values()))
    add_legend(figure, handles, columns=2)
    return finish(figure)


def _look(name: str, place: int) -> Look:
    """Return a method's look in all figures, or one of the cycle."""
    if name in _USUAL:
        return dataclasses.replace(look(_USUAL[name]), title=name)
    taken = {look(usual).colour for usual in _USUAL.values()}
    left = [colour for colour in CYCLE if colour not in taken]
    return Look(name, left[place % len(left)], MARKERS[place % len(MARKERS)], "--")
