"""What the receptive field explains of a decoder by layer, before and after dividing by it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.decoders import AFTER, NORMALISED, PLACE
from jaxflow.eval.decoders_tables import DecoderTables
from jaxflow.eval.plots.lines import draw_cells, legend_key
from jaxflow.eval.plots.style import (
    GREY,
    PAGE,
    Look,
    add_legend,
    dress,
    finish,
    layer_axis,
    look,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_correlations", "draw_first_token"]

_PANELS = {
    "position": "Spearman's corr. with the position",
    "blank_out": "with blank-out",
    "gradient_norm": "with the gradient's norm",
}
_LINES = {"tokens": "all tokens", "words": "words alone", "others": "all but the last word"}


def draw_first_token(tables: DecoderTables) -> Figure:
    """Draw the share of the mass on token 0 over layers, before and after normalisation.

    Hollow markers are the normalised scores; the grey line is what uniform causal attention gives
    token 0, the dotted one an even share of all tokens.
    """
    figure = new_figure(PAGE, 2.6)
    panels = figure.subplots(1, len(NORMALISED), sharey=True, squeeze=False)[0]
    rows = tables.measures["tokens"]["first_token"]
    layers = np.arange(1, tables.layers + 1)
    handles: list[Any] = []
    for axes, method in zip(panels, NORMALISED, strict=True):
        dress(axes, title=f"{method.capitalize()} to [CLS]", x="layer", grid="y")
        place = Look("uniform causal attention", GREY, "", "--")
        even = axes.axhline(
            tables.even, color=GREY, linewidth=0.9, linestyle=":", label="even share"
        )
        shown = [draw_cells(axes, layers, rows[PLACE.format(method)], place), even]
        shown += _before_and_after(axes, rows, method)
        shown.append(draw_cells(axes, layers, rows["raw"], look("raw")))
        handles += [line for line in shown if line.get_label() not in _labels(handles)]
        layer_axis(axes, tables.layers)
    panels[0].set_ylim(bottom=0)
    dress(panels[0], title=panels[0].get_title(), x="layer", y="share of the mass", grid="y")
    add_legend(figure, handles, columns=4)
    return finish(figure)


def draw_correlations(tables: DecoderTables) -> Figure:
    """Draw correlations over layers, before and after normalisation, over three sets of tokens."""
    figure = new_figure(PAGE, 5.4)
    grid = figure.subplots(len(_LINES), len(_PANELS), sharex=True, sharey=True, squeeze=False)
    layers = np.arange(1, tables.layers + 1)
    handles: list[Any] = []
    for place, (line, (variant, said)) in enumerate(zip(grid, _LINES.items(), strict=True)):
        for axes, (measure, title) in zip(line, _PANELS.items(), strict=True):
            rows = tables.measures[variant][measure]
            dress(
                axes,
                title=title if place == 0 else "",
                x="layer" if place == len(grid) - 1 else "",
                y=said if measure == "position" else "",
                grid="y",
            )
            axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)
            handles = []
            for method in NORMALISED:
                handles += _before_and_after(axes, rows, method)
            handles.append(draw_cells(axes, layers, rows["raw"], look("raw")))
            for method in NORMALISED:
                shown = Look("", look(method).colour, "", "--")
                draw_cells(axes, layers, rows[PLACE.format(method)], shown)
            layer_axis(axes, tables.layers)
    handles.append(legend_key("uniform causal attention", Look("", GREY, "", "--")))
    add_legend(figure, handles, columns=3)
    return finish(figure)


def _before_and_after(axes: Axes, rows: Any, method: str) -> list[Any]:
    layers = np.arange(1, len(rows[method]) + 1)
    normalised = dataclasses.replace(look(method), title=f"{method}, normalised")
    return [
        draw_cells(axes, layers, rows[method], look(method)),
        draw_cells(axes, layers, rows[AFTER.format(method)], normalised, dashes="-.", hollow=True),
    ]


def _labels(handles: list[Any]) -> set[str]:
    return {str(handle.get_label()) for handle in handles}
