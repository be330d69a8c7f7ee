"""Draw the attention graph: tokens across, layers upward, edges as wide as their weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxflow.eval.plots.style import (
    COLUMN,
    CYCLE,
    GREY,
    INK,
    PAGE,
    SMALL,
    clipped,
    dress,
    finish,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph


Node = tuple[int, int]

PITCH = 0.16  # inches between tokens
LETTER = 0.062  # inches, an average letter of 7 points
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

    side = 0.35 + PITCH * len(tokens)
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
