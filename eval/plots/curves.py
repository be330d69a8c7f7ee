"""Draw lines over layers, lengths and steps: the tables, the bound, the entropy, and training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.paper.tables import AGREEMENT, SPOILT, TARGET_TITLES, Tables, length_bands
from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    INK,
    MARKERS,
    SMALL,
    Look,
    add_legend,
    draw_cells,
    dress,
    finish,
    layer_axis,
    legend_key,
    look,
    new_figure,
    strokes,
)
from jaxflow.eval.stats import summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: The measures of training that are drawn where a run has them, and what they are called.
CURVES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "subject_share": "subject's share",
}


@dataclass(frozen=True, eq=False)
class Journey:
    """The measures of a training run: steps and values, by measure (`CURVES`) and by split."""

    curves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]  # [K] each
    held_out: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]  # [E] each


def read_journey(run: Path) -> Journey:
    """Read a run's ``metrics.jsonl``.

    Raises `InputError` if the run has none, or it holds nothing that can be drawn.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"no metrics.jsonl in {run}: expected a run's folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    held_out: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = _step(entry["step"])
            for name in CURVES:
                if name in entry:
                    curves[name].append((step, float(entry[name])))
            for split, value in entry.get("held_out", {}).items():
                held_out.setdefault(split, []).append((step, float(value)))
        except SPOILT as error:
            if number == len(lines) and number > 1:
                break  # the line that was being written when the run was cut off
            raise InputError(
                f"{path} must hold a training's measures, line {number} does not"
            ) from error
    drawn = {name: _columns(points) for name, points in curves.items() if points}
    if not drawn:
        raise InputError(f"{path} must hold a training's measures, it has none of {list(CURVES)}")
    return Journey(drawn, {split: _columns(points) for split, points in held_out.items()})


def _step(found: Any) -> int:
    if type(found) is not int or not 0 <= found < 1 << 62:
        raise ValueError(f"a step of {found!r}")
    return found


def _columns(
    points: list[tuple[int, float]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    steps, values = zip(*points, strict=True)
    return np.array(steps, np.int64), np.array(values, np.float64)


_LENGTH_ROWS = ("rollout", "flow", "position")
_LENGTH_TARGETS = ("blank_out", "gradient_norm")


def _panel(height: float, title: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure of one column with one panel over layers."""
    figure = new_figure(COLUMN, height)
    return figure, dress(figure.add_subplot(), title=title, x="layer", y=y, grid="y")


def draw_agreement(tables: Tables, target: str) -> Figure:
    """Draw the correlations with a target over layers with 95 % intervals.

    Where the paper has a table of the target, and for its number of layers, its means are hollow
    markers on dashed lines.
    """
    figure, axes = _panel(
        2.75, f"Agreement with {TARGET_TITLES.get(target, target)}", "Spearman's correlation"
    )
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    handles = []
    rows = tables.correlations[target]
    layers = np.arange(1, tables.layers + 1)
    theirs_of = {row: AGREEMENT.row(target, row, tables.layers) for row in rows}
    for place, (row, cells) in enumerate(rows.items()):
        shown = look(row, place)
        handles.append(draw_cells(axes, layers, cells, shown))
        theirs = theirs_of[row]
        if theirs is not None:
            axes.plot(
                layers,
                [mean for mean, _ in theirs],
                label=f"{shown.title}, paper",
                **strokes(shown, dashes=":", hollow=True),
            )
    if any(theirs is not None for theirs in theirs_of.values()):
        handles.append(legend_key("the paper's", Look("", GREY, "o", ":"), hollow=True))
    axes.set_ylim(*_range(tables))
    layer_axis(axes, tables.layers)
    add_legend(figure, handles)
    return finish(figure)


def draw_saturation(tables: Tables) -> Figure:
    """Draw the share of the pairs ([CLS], token) whose flow is at its bound, over layers."""
    figure, axes = _panel(2.1, "Flow at its bound min(1, column sum of A[1])", "share of the pairs")
    shown = look("flow")
    draw_cells(axes, np.arange(1, tables.layers + 1), tables.saturation, shown)
    axes.set_ylim(-0.03, 1.03)
    layer_axis(axes, tables.layers)
    return finish(figure)


def draw_entropy(tables: Tables) -> Figure:
    """Draw how spread the ``[CLS]`` row is over layers: 0 is one token, 1 is uniform."""
    figure, axes = _panel(2.3, "Entropy of the [CLS] row", "share of its maximum")
    layers = np.arange(1, tables.layers + 1)
    handles = [
        draw_cells(axes, layers, cells, look(row, place))
        for place, (row, cells) in enumerate(tables.entropy.items())
    ]
    layer_axis(axes, tables.layers)
    add_legend(figure, handles)
    return finish(figure)


def draw_lengths(scores: SentenceScores) -> Figure:
    """Draw the top layer's correlations by the length of the sentence, with 95 % intervals.

    Bands of length (`jaxflow.eval.paper.tables`) without sentences are left out.
    """
    bins = length_bands(scores["length"])
    figure = new_figure(COLUMN, 3.4)
    panels = figure.subplots(len(_LENGTH_TARGETS), 1, sharex=True, squeeze=False)[:, 0]
    handles: list[Any] = []
    for axes, target in zip(panels, _LENGTH_TARGETS, strict=True):
        dress(
            axes,
            title=f"Top layer, with {TARGET_TITLES[target]}",
            y="Spearman's corr.",
            grid="y",
        )
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
        handles = []
        for row in _LENGTH_ROWS:
            top = scores[f"{target}/{row}"][:, -1]
            cells = [summarise(top[member, None], 0)[0] for member in bins.values()]
            handles.append(draw_cells(axes, np.arange(len(bins)), cells, look(row)))
    panels[-1].set_xticks(range(len(bins)), list(bins))
    panels[-1].set_xlabel(
        "tokens of the sentence, [CLS] included", fontsize=SMALL, color=INK, labelpad=2
    )
    add_legend(figure, handles)
    return finish(figure)


def draw_training(journey: Journey) -> Figure:
    """Draw a run's measures over its steps, with the accuracies on held-out splits."""
    figure = new_figure(COLUMN, 0.6 + 1.15 * len(journey.curves))
    panels = figure.subplots(len(journey.curves), 1, sharex=True, squeeze=False)[:, 0]
    handles = []
    for axes, (name, (steps, values)) in zip(panels, journey.curves.items(), strict=True):
        dress(axes, y=CURVES[name], grid="y")
        (line,) = axes.plot(steps, values, color=CYCLE[1], linewidth=1, label="training batches")
        if name == next(iter(journey.curves)):
            handles.append(line)
        if name == "accuracy":
            for place, (split, points) in enumerate(journey.held_out.items(), start=2):
                shown = Look(split, CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)])
                (line,) = axes.plot(*points, label=split, **strokes(shown))
                handles.append(line)
    panels[-1].set_xlabel("step", fontsize=SMALL, color=INK, labelpad=2)
    add_legend(figure, handles)
    return finish(figure)


def _range(tables: Tables) -> tuple[float, float]:
    """Return the limits of the correlations' axis, the same for every target."""
    shown = [0.0]
    for target, rows in tables.correlations.items():
        for row, cells in rows.items():
            shown += [edge for cell in cells for edge in (*cell.ci95, cell.mean)]
            shown += [mean for mean, _ in AGREEMENT.row(target, row, tables.layers) or ()]
    return float(np.nanmin(shown)) - 0.04, float(np.nanmax(shown)) + 0.04
