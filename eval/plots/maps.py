"""Draw a sentence: token scores as heat maps and bars, and the attention graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    INK,
    PAGE,
    SMALL,
    TITLE,
    clipped,
    colour_map,
    dress,
    finish,
    is_constant,
    look,
    new_figure,
    shares,
)
from jaxflow.eval.report import layer_names, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph


PITCH = 0.128  # inches from one token to the next, so that labels of 7 points do not overlap
LETTER = 0.062  # inches, an average letter of 7 points
GAP = 0.1  # inches between panels
HEADING = 0.36  # inches above a panel: two lines


def draw_layer_maps(
    maps: NDArray[np.floating], tokens: Sequence[str], *, title: str = "", residual: bool = True
) -> Figure:
    """Draw token attention ``[L, n, n]`` as a heat map a layer, from 0 to its own largest value.

    A map whose entries are all the same is grey.

    With `residual` its rows are called embeddings (of rollout and flow), else queries.
    """
    panels = {
        f"L{layer}\n{_largest(values)}": shares(values)
        for layer, values in enumerate(np.asarray(maps), start=1)
    }
    rows, columns = ("embedding", "input token") if residual else ("query", "key")
    return _draw_panels(panels, tokens, tokens, (rows, columns), title=title)


def _largest(values: NDArray[np.floating]) -> str:
    kind = "constant" if is_constant(values) else "max"
    return f"{kind} {short(float(np.max(values)))}"


def draw_readout(
    maps: Mapping[str, NDArray[np.floating]],
    tokens: Sequence[str],
    *,
    source: int = 0,
    title: str = "",
) -> Figure:
    """Draw one token's row over the layers, a heat map for each method ``[L, n, n]``.

    Every row is shaded from 0 to its own largest value, grey where all are the same: tokens are
    compared within a layer.
    """
    panels = {
        look(name).title: np.stack([shares(row) for row in np.asarray(values)[:, source]])
        for name, values in maps.items()
    }
    layers = layer_names(len(next(iter(panels.values()))))
    return _draw_panels(panels, layers, tokens, ("layer", "input token"), title=title, upward=True)


def _draw_panels(
    panels: Mapping[str, NDArray[np.floating]],
    rows: Sequence[str],
    columns: Sequence[str],
    names: tuple[str, str],
    *,
    title: str,
    upward: bool = False,
) -> Figure:
    """Draw matrices ``[R, C]`` of 0 to 1 with the same row and column labels side by side."""
    rows, columns = [clipped(label) for label in rows], [clipped(label) for label in columns]
    left = 0.3 + LETTER * max(map(len, rows))
    below = 0.3 + LETTER * max(map(len, columns))
    across, width = _grid(len(panels), len(columns), left)
    side = (width - left) / across - GAP
    down = -(-len(panels) // across)
    tall = max(PITCH * len(rows), side * len(rows) / len(columns))
    # Where the last row is not full, the row above it has token labels too.
    labelled = 1 if len(panels) % across == 0 else 2
    height = labelled * below + (0.2 if title else 0) + down * (tall + HEADING)
    figure = new_figure(width, height, pad=0.03)

    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for place, (axes, (name, values)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        dress(axes)
        axes.set_title(name, fontsize=SMALL, color=INK, pad=3)
        axes.pcolormesh(
            np.arange(len(columns) + 1) - 0.5,
            np.arange(len(rows) + 1) - 0.5,
            values,
            cmap=colour_map(),
            vmin=0,
            vmax=1,
            edgecolors="white",
            linewidth=0.3,
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
        axes.set_yticks(range(len(rows)), rows, parse_math=False)
        # The lowest panel of its column has the labels, though the grid may go on empty below.
        axes.tick_params(labelbottom=place + across >= len(panels))
    if not upward:
        grid[0, 0].invert_yaxis()
    figure.supylabel(names[0], fontsize=SMALL, color=INK)
    figure.supxlabel(names[1], fontsize=SMALL, color=INK)
    if title:
        figure.suptitle(title, fontsize=TITLE, color=INK, parse_math=False)
    return finish(figure)


def _grid(panels: int, columns: int, beside: float) -> tuple[int, float]:
    """Choose how many panels go side by side and the figure's width.

    A column's width if labels do not overlap there, else a page's, else what two panels need;
    three panels are never split into two and one.
    """
    need = PITCH * columns + GAP
    # Three panels in rows of two would leave a hole; six in rows of two are a column.
    for width, least in ((COLUMN, 2 if panels > 3 else 3), (PAGE, 3)):
        fit = min(panels, 3, int((width - beside) / need))
        if fit >= min(panels, least):
            return fit, width
    fit = 1 if panels == 3 else min(panels, 2)
    return fit, max(PAGE, beside + fit * need)


BAR_PITCH = 0.15  # inches between bars
NARROWEST = 0.44  # inches, a panel


def draw_token_bars(scores: Mapping[str, NDArray[np.floating]], tokens: Sequence[str]) -> Figure:
    """Draw each method's scores ``[n]`` of the tokens, a panel a method on a scale of its own."""
    labels = [clipped(token) for token in tokens]
    left = 0.15 + LETTER * max(map(len, labels))
    need = left + len(scores) * (NARROWEST + 0.08)
    width = next((width for width in (COLUMN, PAGE) if need <= width), need)
    figure = new_figure(width, 0.75 + BAR_PITCH * len(labels))
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for place, (axes, (name, values)) in enumerate(zip(panels, scores.items(), strict=True)):
        shown = look(name, place)
        dress(axes)
        # A word a line: titles side by side must not meet.
        words = shown.title.replace("-", "-\n").replace(" ", "\n")
        axes.set_title(words, fontsize=SMALL, color=INK, pad=4, parse_math=False)
        axes.barh(range(len(labels)), values, height=0.7, color=shown.colour)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        axes.tick_params(axis="y", length=0)
        top = float(np.max(values))
        axes.set_xlim(0, top * 1.02 if top > 0 else 1)
        axes.set_xticks([top if top > 0 else 1], [f"{top:.2g}"], ha="right")
    panels[0].invert_yaxis()
    return finish(figure)


Node = tuple[int, int]

GRAPH_PITCH = 0.16  # inches between tokens
WIDEST = 4.0  # points, an edge of weight 1
ALL_OF_IT = 7.0  # points, an edge that everything goes through
LEAST = 0.01  # edges of less weight would be too thin to see and are not drawn


def path_shares(graph: DiGraph, source: Node) -> tuple[dict[Node, float], dict[Any, float]]:
    r"""Return the share of `source` that goes through every node and every edge below it.

    What leaves a node ``(layer, token)`` divides over its edges by their weights:
    :math:`s(u, v) = s(u) c(u, v)`, :math:`s(v) = \sum_u s(u, v)`. The shares of the input tokens
    are the source's row of rollout.
    """
    nodes = {source: 1.0}
    edges = {}
    for layer in range(source[0], 0, -1):
        for node in [node for node in nodes if node[0] == layer]:
            for below, edge in graph[node].items():
                share = nodes[node] * edge["capacity"]
                edges[node, below] = share
                nodes[below] = nodes.get(below, 0.0) + share
    return nodes, edges


def draw_graph(graph: DiGraph, tokens: Sequence[str], *, source: int = 0) -> Figure:
    """Draw an attention graph twice: all edges of at least .01, and the paths of one token.

    The second half follows `source` down from the last layer; widths there are the shares of
    `path_shares`, and the input tokens' areas the source's row of rollout.
    """
    layers = max(layer for layer, _ in graph)
    labels = [clipped(token) for token in tokens]
    weights = {edge: graph.edges[edge]["capacity"] for edge in graph.edges}
    nodes, shares = path_shares(graph, (layers, source))

    side = 0.35 + GRAPH_PITCH * len(tokens)
    beside = 2 * side + 0.4 <= PAGE
    width = max(COLUMN, 2 * side + 0.4 if beside else side + 0.4)
    panel = 0.45 + 0.3 * layers + LETTER * max(map(len, labels))
    figure = new_figure(width, panel + 0.2 if beside else 2 * panel + 0.2)
    shape = (1, 2) if beside else (2, 1)
    first, second = figure.subplots(*shape, sharey=True, sharex=True, squeeze=False).flat
    _draw_edges(first, weights, GREY, WIDEST)
    _draw_nodes(first, dict.fromkeys(graph, 0.0))
    dress(first, title="all edges")
    _draw_edges(second, shares, CYCLE[1], ALL_OF_IT)
    _draw_nodes(second, {node: nodes.get(node, 0.0) for node in graph})
    dress(second, title=f"paths of {labels[source]}")
    for axes in (first, second):
        axes.spines[:].set_visible(False)
        axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
        axes.set_yticks(range(layers + 1), ["input", *(f"L{layer + 1}" for layer in range(layers))])
        axes.tick_params(length=0)
        axes.tick_params(labelbottom=True)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(-0.35, layers + 0.35)
    figure.supxlabel("input token", fontsize=SMALL, color=INK)
    return finish(figure)


def _draw_edges(axes: Axes, weights: dict[Any, float], colour: str, widest: float) -> None:
    from matplotlib.collections import LineCollection

    # The strong ones last, on top of the others.
    drawn = sorted((weight, edge) for edge, weight in weights.items() if weight >= LEAST)
    axes.add_collection(
        LineCollection(
            [[(upper[1], upper[0]), (lower[1], lower[0])] for _, (upper, lower) in drawn],
            linewidths=[widest * weight for weight, _ in drawn],
            colors=colour,
            alpha=0.75,
            capstyle="round",
            zorder=1,
        )
    )


def _draw_nodes(axes: Axes, shares: dict[Node, float]) -> None:
    axes.scatter(
        [token for _, token in shares],
        [layer for layer, _ in shares],
        s=[3 + 60 * share for share in shares.values()],
        color=INK,
        linewidth=0,
        zorder=2,
    )
