"""Plots of a benchmark's record: lines for growth, bars for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxflow.eval.benchmarks.lookup import Entry, find
from jaxflow.eval.benchmarks.record import is_own

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bars", "draw_growth", "draw_plots"]

# Okabe and Ito's colours, which people with colour blindness can tell apart; markers and hatches
# say the same once more. The project's own ways come first.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X")
_HATCHES = ("", "", "//", "..", "xx", "\\\\", "++")

_AXES = {"tokens": "tokens n", "layers": "layers L"}


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
    for benchmark in ("rollout", "train"):
        found = find(record, benchmark=benchmark)
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
    figure = _figure(8, 5)
    axes = figure.add_subplot()
    # The kernel's input, read once: no solver can be faster.
    sizes = [comparison["settings"][axis] for comparison in comparisons]
    floors = [comparison["settings"]["floor_seconds"] for comparison in comparisons]
    axes.plot(sizes, floors, color="0.5", linestyle=":", label="floor: one read of the edges")
    for place, (name, points) in enumerate(lines.items()):
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            color=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            linestyle="-" if is_own(name) else "--",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("seconds a sentence")
    axes.set_title(
        f"[CLS] table, {settings['attention']} attention, {settings[other]} {other}", loc="left"
    )
    axes.grid(True, color="0.9")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_bars(comparisons: Sequence[Entry]) -> Figure:
    """Draw seconds as bars: a group for each comparison, a bar for each contender."""
    names = list(
        dict.fromkeys(entry["name"] for found in comparisons for entry in found["contenders"])
    )
    height = 0.8 / len(names)
    figure = _figure(8, 1.2 + 0.14 * len(names) * len(comparisons))
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        at, seconds = [], []
        for group, comparison in enumerate(comparisons):
            for entry in comparison["contenders"]:
                if entry["name"] == name:
                    at.append(group + (place - (len(names) - 1) / 2) * height)
                    seconds.append(entry["seconds"] * 1e3)
        axes.barh(
            at,
            seconds,
            height=height,
            label=name,
            color=_COLOURS[place % len(_COLOURS)],
            hatch=_HATCHES[place % len(_HATCHES)],
            edgecolor="white",
        )
    axes.set_yticks(range(len(comparisons)), [_group(found) for found in comparisons])
    axes.invert_yaxis()
    label = "milliseconds, less is better"
    if comparisons[0]["benchmark"] == "rollout":  # from microseconds to a tenth of a second
        axes.set_xscale("log")
        label = f"{label} (logarithmic)"
    axes.set_xlabel(label)
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", frameon=False, ncols=2)
    return figure


def _group(comparison: Entry) -> str:
    settings: Mapping[str, Any] = comparison["settings"]
    words = [f"batch {settings['batch']}", f"n {settings['tokens']}"]
    if "layers" in settings:
        words.append(f"L {settings['layers']}")
    return ", ".join(words)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure
