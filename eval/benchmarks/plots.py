"""Plots of a benchmark's record: lines for growth, bars for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxflow.eval.benchmarks.lookup import Entry, find
from jaxflow.eval.benchmarks.record import is_own
from jaxflow.eval.plots.style import (
    CYCLE,
    GREY,
    HATCHES,
    MARKERS,
    PAGE,
    add_legend,
    dress,
    finish,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bars", "draw_growth", "draw_plots"]

_AXES = {"tokens": "tokens n", "layers": "layers L"}
# Benchmark -> which of its comparisons are bars.
_BARS: dict[str, dict[str, str]] = {"rollout": {}, "train": {}, "models": {"measure": "forward"}}


def draw_plots(record: Entry) -> dict[str, Figure]:
    """Draw all that a record has figures for.

    Returns
    -------
    dict
        File name without its ending -> figure.
    """
    plots = {}
    for axis in _AXES:
        found = find(record, benchmark="flow", measure="growth", axis=axis)
        if len(found) > 1:
            plots[f"flow-{axis}"] = draw_growth(found, axis)
    for benchmark, settings in _BARS.items():
        found = find(record, benchmark=benchmark, **settings)
        if found:
            plots[benchmark] = draw_bars(found)
    return plots


def draw_growth(comparisons: Sequence[Entry], axis: str) -> Figure:
    """Draw seconds against tokens or layers, both in logarithms, a line for every contender."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for comparison in comparisons:
        for entry in comparison["contenders"]:
            point = (comparison["settings"][axis], entry["seconds"])
            lines.setdefault(entry["name"], []).append(point)
    settings = comparisons[0]["settings"]
    other = "layers" if axis == "tokens" else "tokens"
    figure = new_figure(PAGE, 4.5)
    axes = dress(
        figure.add_subplot(),
        title=f"[CLS] table, {settings['attention']} attention, {settings[other]} {other}",
        x=_AXES[axis],
        y="seconds a sentence",
        grid="both",
    )
    # The kernel's input, read once: no solver can be faster.
    sizes = [comparison["settings"][axis] for comparison in comparisons]
    floors = [comparison["settings"]["floor_seconds"] for comparison in comparisons]
    handles = axes.plot(
        sizes, floors, color=GREY, linestyle=":", label="floor: one read of the edges"
    )
    for place, (name, points) in enumerate(lines.items()):
        handles += axes.plot(
            *zip(*points, strict=True),
            label=name,
            markersize=4,
            color=CYCLE[place % len(CYCLE)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="-" if is_own(name) else "--",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    add_legend(figure, handles, columns=2)
    return finish(figure)


def draw_bars(comparisons: Sequence[Entry]) -> Figure:
    """Draw seconds as bars: a group for each comparison, a bar for each contender."""
    names = list(
        dict.fromkeys(entry["name"] for found in comparisons for entry in found["contenders"])
    )
    height = 0.8 / len(names)
    figure = new_figure(PAGE, 1.1 + 0.13 * len(names) * len(comparisons))
    label = "milliseconds, less is better"
    if logarithmic := comparisons[0]["benchmark"] != "train":
        label = f"{label} (logarithmic)"  # sizes differ a hundredfold and more
    axes = dress(figure.add_subplot(), x=label, grid="x")
    handles = []
    for place, name in enumerate(names):
        at, seconds = [], []
        for group, comparison in enumerate(comparisons):
            for entry in comparison["contenders"]:
                if entry["name"] == name:
                    at.append(group + (place - (len(names) - 1) / 2) * height)
                    seconds.append(entry["seconds"] * 1e3)
        bars = axes.barh(
            at,
            seconds,
            height=height,
            label=name,
            color=CYCLE[place % len(CYCLE)],
            hatch=HATCHES[place % len(HATCHES)],
            edgecolor="white",
        )
        handles.append(bars)
    axes.set_yticks(range(len(comparisons)), [_group(found) for found in comparisons])
    axes.invert_yaxis()
    if logarithmic:
        axes.set_xscale("log")
    add_legend(figure, handles, columns=2)
    return finish(figure)


def _group(comparison: Entry) -> str:
    settings: Mapping[str, Any] = comparison["settings"]
    words = [f"batch {settings['batch']}", f"n {settings['tokens']}"]
    if "layers" in settings:
        words.append(f"L {settings['layers']}")
    return ", ".join(words)
