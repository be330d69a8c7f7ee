"""Lines over layers, lengths and steps: the tables, the bound, the focus, and training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.paper.tables import Tables, length_bands
from jaxflow.eval.plots.lines import draw_cells, legend_key, strokes
from jaxflow.eval.plots.results import CURVES, Journey
from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    INK,
    MARKERS,
    SMALL,
    Look,
    add_legend,
    dress,
    finish,
    layer_axis,
    look,
    new_figure,
)
from jaxflow.eval.stats import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_agreement",
    "draw_entropy",
    "draw_lengths",
    "draw_saturation",
    "draw_training",
]

_LENGTH_ROWS = ("rollout", "flow", "position")
_LENGTH_TARGETS = ("blank_out", "gradient_norm")


def draw_agreement(tables: Tables, target: str) -> Figure:
    """Draw a table: correlation over layers with 95 % intervals, beside the paper's points.

    Parameters
    ----------
    tables
        Of one model.
    target
        What is correlated with, such as ``blank_out``. Where the paper has a table of it, and for
        its number of layers, its means are hollow markers on dashed lines.
    """
    figure = new_figure(COLUMN, 2.75)
    axes = dress(
        figure.add_subplot(),
        title=f"Agreement with {paper.TARGET_TITLES.get(target, target)}",
        x="layer",
        y="Spearman's correlation",
        grid="y",
    )
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    handles = []
    rows = tables.correlations[target]
    layers = np.arange(1, tables.layers + 1)
    theirs_of = {row: paper.AGREEMENT.row(target, row, tables.layers) for row in rows}
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
    figure = new_figure(COLUMN, 2.1)
    axes = dress(
        figure.add_subplot(),
        title="Flow at its bound min(1, column sum of A[1])",
        x="layer",
        y="share of the pairs",
        grid="y",
    )
    shown = look("flow")
    draw_cells(axes, np.arange(1, tables.layers + 1), tables.saturation, shown)
    axes.set_ylim(-0.03, 1.03)
    layer_axis(axes, tables.layers)
    return finish(figure)


def draw_entropy(tables: Tables) -> Figure:
    """Draw how spread the ``[CLS]`` row is over layers: 0 is one token, 1 is uniform."""
    figure = new_figure(COLUMN, 2.3)
    axes = dress(
        figure.add_subplot(),
        title="Entropy of the [CLS] row",
        x="layer",
        y="share of its maximum",
        grid="y",
    )
    layers = np.arange(1, tables.layers + 1)
    handles = [
        draw_cells(axes, layers, cells, look(row, place))
        for place, (row, cells) in enumerate(tables.entropy.items())
    ]
    layer_axis(axes, tables.layers)
    add_legend(figure, handles)
    return finish(figure)


def draw_lengths(scores: SentenceScores, seed: int = 0) -> Figure:
    """Draw the top layer's correlations by the length of the sentence, with 95 % intervals.

    Parameters
    ----------
    scores
        Of one model. Bands of length (`jaxflow.eval.paper.tables`) without sentences are left out.
    seed
        Of the bootstrap.
    """
    bins = length_bands(scores.length)
    figure = new_figure(COLUMN, 3.4)
    panels = figure.subplots(len(_LENGTH_TARGETS), 1, sharex=True, squeeze=False)[:, 0]
    handles: list[Any] = []
    for axes, target in zip(panels, _LENGTH_TARGETS, strict=True):
        dress(
            axes,
            title=f"Top layer, with {paper.TARGET_TITLES[target]}",
            y="Spearman's corr.",
            grid="y",
        )
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
        handles = []
        for row in _LENGTH_ROWS:
            top = scores.correlations[target][row][:, -1]
            cells = [summarise(top[member, None], seed)[0] for member in bins.values()]
            handles.append(draw_cells(axes, np.arange(len(bins)), cells, look(row)))
    panels[-1].set_xticks(range(len(bins)), list(bins))
    panels[-1].set_xlabel(
        "tokens of the sentence, [CLS] included", fontsize=SMALL, color=INK, labelpad=2
    )
    add_legend(figure, handles)
    return finish(figure)


def draw_training(journey: Journey) -> Figure:
    """Draw a run's measures over its steps, with the accuracies on what was held out."""
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
    """Give the ends of the correlations' axis, the same for every target: they get compared."""
    shown = [
        edge
        for rows in tables.correlations.values()
        for r in rows.values()
        for c in r
        for edge in (*c.ci95, c.mean)
    ]
    for target, rows in tables.correlations.items():
        for row in rows:
            shown += [mean for mean, _ in paper.AGREEMENT.row(target, row, tables.layers) or ()]
    values = np.array([0.0, *shown])
    return float(np.nanmin(values)) - 0.04, float(np.nanmax(values)) + 0.04
