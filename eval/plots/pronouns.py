"""Draw a masked pronoun's referents as bars (the paper's Figure 4), and agreement over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.plots.style import (
    COLUMN,
    GREY,
    INK,
    PAGE,
    SMALL,
    TITLE,
    add_legend,
    clipped,
    dress,
    finish,
    layer_axis,
    look,
    new_figure,
    place_legend,
    strokes,
)
from jaxflow.eval.pronouns.cases import METHODS, Agreement, Case
from jaxflow.eval.stats import Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Colour and hatch of the first referent and of the second. No method has these colours.
REFERENTS = (("#3B3B3B", ""), ("#E69F00", "////"))

TITLES = {"raw": "raw attention", "rollout": "attention rollout", "flow": "attention flow"}
HEIGHT = 1.7  # inches a sentence
WIDEST = 24  # layers whose bars still fit a page
HATCHED = 14  # layers whose bars are broad enough for a hatch
LETTERS = 102  # characters that fit above the panels: a sentence and its legend


def draw_referents(cases: Sequence[Case]) -> Figure:
    """Draw each referent's weight at the mask, layer by layer, beside the model's own choice.

    A row of panels a sentence: the probabilities of its two pronouns, then two bars a layer for
    raw attention, rollout and flow, each panel on a scale of its own from 0.
    """
    layers = len(cases[0].weights["raw"])
    figure = new_figure(PAGE * max(1, layers / WIDEST), 0.1 + HEIGHT * len(cases))
    grid = figure.subplots(len(cases), 4, squeeze=False, width_ratios=(0.5, 1, 1, 1))
    for panels, case in zip(grid, cases, strict=True):
        _draw_case(panels, case, layers)
    return finish(figure)


def _draw_case(panels: Sequence[Axes], case: Case, layers: int) -> None:
    first, *others = panels
    dress(first, title="model", y="probability", grid="y")
    for which, value in enumerate(case.probabilities):
        _bars(first, np.array([which]), np.array([value]), which, width=0.62)
    first.set_xticks((0, 1), case.schema.fillers, parse_math=False)
    first.set_xlim(-0.55, 1.55)
    first.tick_params(axis="x", length=0)
    _fit(first, np.array(case.probabilities))
    labels = [
        f"{clipped(name)} ({filler})"
        for name, filler in zip(case.schema.referents, case.schema.fillers, strict=True)
    ]
    # Space for two lines of titles; the first one goes across all panels, as no title can.
    first.set_title(" \n ", loc="left", fontsize=TITLE + 3, pad=4)
    first.annotate(
        clipped(case.schema.sentence, max(20, LETTERS - sum(map(len, labels)))),
        (0, 1),
        (-26, 19),
        xycoords="axes fraction",
        textcoords="offset points",
        annotation_clip=False,
        fontsize=TITLE,
        color=INK,
        parse_math=False,
        in_layout=False,
    )
    handles: list[Any] = []
    for axes, method in zip(others, METHODS, strict=True):
        weights = case.weights[method]
        dress(axes, title=TITLES[method], x="layer", grid="y")
        handles = []
        for which, label in enumerate(labels):
            place = np.arange(1, layers + 1) + (-0.2, 0.2)[which]
            bars = _bars(axes, place, weights[:, which], which, width=0.4, hatch=layers <= HATCHED)
            bars.set_label(label)
            handles.append(bars)
        step = 1 if layers <= 8 else -(-layers // 6)
        axes.set_xticks(range(layers, 0, -step))  # the top one is always named
        axes.set_xlim(0.4, layers + 0.6)
        axes.tick_params(axis="x", length=0)
        _fit(axes, weights)
    others[0].set_ylabel("weight", fontsize=SMALL, color=INK, labelpad=2)
    legend = place_legend(
        others[-1],
        handles,
        loc="lower right",
        bbox_to_anchor=(1.02, 1.23),
        ncols=2,
        handlelength=1.1,
        borderaxespad=0,
        borderpad=0,
    )
    legend.set_in_layout(False)  # the title of two lines keeps its place free


def _bars(
    axes: Axes,
    places: NDArray[np.floating],
    values: NDArray[np.floating],
    which: int,
    *,
    width: float,
    hatch: bool = True,
) -> Any:
    colour, pattern = REFERENTS[which]
    return axes.bar(
        places,
        values,
        width=width,
        color=colour,
        edgecolor="white",
        hatch=pattern if hatch else "",
        linewidth=0.3,
    )


def _fit(axes: Axes, values: NDArray[np.floating]) -> None:
    top = float(np.max(values))
    axes.set_ylim(0, top * 1.08 if top > 0 else 1)
    axes.locator_params(axis="y", nbins=4)


def draw_pronoun_agreement(found: Agreement) -> Figure:
    """Draw how often each method prefers the model's referent, by layer, with 95 % intervals.

    Above over all sentences, below over the pairs in which the model changes its choice.
    """
    figure = new_figure(COLUMN, 3.9)
    panels = figure.subplots(2, 1, sharex=True)
    heads = (
        ("Same referent as the model", found.sentences, 0.5),
        ("Both of a pair in which the model turns", found.turned, 0.25),
    )
    handles: list[Any] = []
    for axes, (title, rows, chance) in zip(panels, heads, strict=True):
        pairs = rows is found.turned
        layers = len(rows.methods["raw"])
        dress(axes, title=title, y="share of the " + ("pairs" if pairs else "sentences"), grid="y")
        handles = [*_lines(axes, rows.methods), *_baselines(axes, rows.baselines, layers, chance)]
        axes.set_ylim(-0.03, 1.03)
        layer_axis(axes, layers)
        if rows.baselines["first"].n == 0:
            note = "the model turns in no pair" if pairs else "the model prefers none"
            place = {"transform": axes.transAxes, "ha": "center"}
            axes.text(0.5, 0.6, note, fontsize=SMALL, color=GREY, **place)
    panels[1].set_xlabel("layer", fontsize=SMALL, color=INK, labelpad=2)
    add_legend(figure, handles, columns=3)
    return finish(figure)


def _lines(axes: Axes, methods: Mapping[str, Sequence[Share]]) -> list[Any]:
    handles = []
    for name, shares in methods.items():
        shown = look(name)
        layers = np.arange(1, len(shares) + 1)
        style = {"label": shown.title, **strokes(shown), "linewidth": 1.1, "markersize": 3.2}
        low, high = np.array([share.ci95 for share in shares]).T
        axes.fill_between(layers, low, high, color=shown.colour, alpha=0.13, linewidth=0)
        handles += axes.plot(layers, [share.share for share in shares], **style)
    return handles


def _baselines(axes: Axes, baselines: Mapping[str, Share], layers: int, chance: float) -> list[Any]:
    purple, dots = look("column_sum"), (0, (1, 2, 5, 2))
    lines: dict[str, tuple[float, dict[str, Any]]] = {
        purple.title: (baselines["column_sum"].share, {"color": purple.colour, "linestyle": "--"}),
        "nearest": (baselines["nearest"].share, {"color": INK, "linestyle": ":"}),
        "first": (baselines["first"].share, {"color": INK, "linestyle": dots}),
        "chance": (chance, {"color": GREY, "linewidth": 0.6, "zorder": 1}),
    }
    handles = []
    for label, (share, style) in lines.items():
        ends = [0.75, layers + 0.25]
        handles += axes.plot(ends, [share] * 2, label=label, **{"linewidth": 0.9, **style})
    return handles
