"""Draw the layered flow graph: tokens as nodes, level by level, and the edges that carry flow.

Pointing at a node shows its edges, clicking it the minimum cut between the token explained, at the
top, and that node. Bokeh's graph does the former; for the latter the rows of `cut_columns` are in
the order of the nodes, so that the node selected selects its cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.html.content import Content, Edges
from jaxflow.html.style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    grey,
    integers,
    is_constant,
    name_tokens,
    new_figure,
    shades,
    short,
    token_names,
    visible,
)

if TYPE_CHECKING:
    from bokeh.models import UIElement

WIDEST = 7.0  # pixels of an edge of weight 1
THINNEST = 0.4  # and of the lightest one drawn
LINE, LINES = 110, 3  # characters and lines of text on a cut
TOOLTIP = 160  # characters of it beside the pointer
NAME = 28  # characters of a token in it


def node_columns(content: Content) -> dict[str, Any]:
    """Return one row for each node, level by level from the input up, tokens in their order.

    Columns ``index``, ``level`` (0 are the input tokens), ``token``, ``flow`` (from the token
    explained; NaN where it is not computed) and ``words``, the cut in one sentence.
    """
    depth, n = content.edges.shape[:2]
    level, token = (axis.ravel() for axis in np.indices((depth + 1, n)))
    nodes = list(zip(level.tolist(), token.tolist(), strict=True))
    values = [content.cuts[node].value if node in content.cuts else np.nan for node in nodes]
    return {
        "index": np.arange(level.size, dtype=np.int32),
        "level": integers(level),
        "token": integers(token),
        "flow": np.array(values, np.float32),
        "words": [short(_words(content, node), TOOLTIP) for node in nodes],
    }


def _words(content: Content, node: tuple[int, int]) -> str:
    """Return the cut in one sentence."""
    level, token = node
    if node not in content.cuts:
        return ""
    cut, n = content.cuts[node], len(content.tokens)
    if level and n > 1 and cut.edges == tuple((level, query, token) for query in range(n)):
        name = short(visible(content.tokens[token]), NAME)
        return f"layer {level + 1}, everything → {name}: flow is all that arrives there"
    return visible(cut.summary([short(visible(word), NAME) for word in content.tokens]))


def edge_columns(edges: Edges, n: int) -> dict[str, np.ndarray]:
    """Return one row for each edge kept.

    Columns ``start`` and ``end``, both nodes, ``weight``, and ``width`` in pixels, at rest and
    ``pointed`` at.
    """
    weight = np.round(edges.weight, 5).astype(np.float32)
    width = np.round(WIDEST * weight, 1).astype(np.float32)
    return {
        "start": ((edges.layer + 1) * n + edges.query).astype(np.int32),
        "end": (edges.layer * n + edges.key).astype(np.int32),
        "weight": weight,
        "width": np.maximum(THINNEST, width),
        "pointed": np.maximum(4 * THINNEST, width),
    }


def cut_columns(content: Content) -> dict[str, Any]:
    """Return one row for each node: lines ``xs``, ``ys`` of its cut, their ``width``, ``words``.

    A line runs from the query's node down to the key's; lines are separated by NaN.
    """
    depth, n = content.edges.shape[:2]
    xs: list[Any] = []
    ys: list[Any] = []
    words, widths = [], []
    for level in range(depth + 1):
        for token in range(n):
            words.append(_description(content, level, token))
            cut = content.cuts.get((level, token))
            # Many lines would hide the graph below them.
            widths.append(0 if cut is None else float(np.clip(20 / max(len(cut.edges), 1), 1.5, 4)))
            if cut is None:  # shorter in JSON than an empty array
                xs.append([])
                ys.append([])
                continue
            edges = np.array(cut.edges, np.float32).reshape(-1, 3)
            gap = np.full(len(edges), np.nan, np.float32)
            xs.append(np.stack([edges[:, 1], edges[:, 2], gap], 1).ravel())
            ys.append(np.stack([edges[:, 0] + 1, edges[:, 0], gap], 1).ravel())
    return {"xs": xs, "ys": ys, "width": np.array(widths, np.float32), "words": words}


def _description(content: Content, level: int, token: int) -> str:
    depth = len(content.edges)
    top = short(visible(content.tokens[content.source]), NAME)
    end = short(visible(content.tokens[token]), NAME)
    place = "in the input" if level == 0 else f"after layer {level}"
    node = (level, token)
    if node not in content.cuts:
        return "No cut is worked out for this one."
    cut = content.cuts[node]
    edges = f"{len(cut.edges)} edge{'' if len(cut.edges) == 1 else 's'}"
    first = f"{top} after layer {depth} → {end} (token {token}) {place}: flow {cut.value:.4g}"
    return f"{first}, held down by {edges}\n{_folded(_words(content, node))}"


def _folded(text: str) -> str:
    text = short(text, LINE * LINES)
    return "\n".join(text[start : start + LINE] for start in range(0, len(text), LINE))


def flow_graph(content: Content, edges: Edges) -> UIElement:
    """Draw the graph, a slider for the lightest edge shown, and a line of text on the cut."""
    from bokeh.layouts import column
    from bokeh.models import (
        CDSView,
        ColumnDataSource,
        GraphRenderer,
        HoverTool,
        IndexFilter,
        LinearColorMapper,
        MultiLine,
        NodesAndLinkedEdges,
        NodesOnly,
        Range1d,
        Scatter,
        Slider,
        StaticLayoutProvider,
        TapTool,
    )
    from bokeh.models.glyphs import Text

    depth, n = content.edges.shape[:2]
    nodes = node_columns(content)
    mixing = edges.weight[edges.query != edges.key]
    highest = float(mixing.max()) if mixing.size else 1.0
    step = max(round(highest / 200, 5), 1e-5)
    # At the start about four edges for every node are shown, besides the residual ones.
    start = float(np.sort(mixing)[-4 * depth * n]) if mixing.size > 4 * depth * n else 0.0
    threshold = Slider(
        start=0,
        end=round(highest + step, 5),
        step=step,
        value=round(start / step) * step,
        format="0.0000",
        title="Lightest edge shown",
        name="threshold",
        sizing_mode="stretch_width",
    )
    # Edges lighter than `low` are drawn in no colour.
    mapper = LinearColorMapper(
        palette=[GREY, GREY], low=threshold.value, high=1.0, low_color="rgba(0, 0, 0, 0)"
    )
    threshold.js_link("value", mapper, "low")

    plot = new_figure(
        "save,box_zoom,reset",
        height=120 + 70 * (depth + 1),
        x_range=Range1d(-0.8, n - 0.2),
        y_range=Range1d(-0.4, depth + 0.4),
        name="graph-plot",
    )
    graph = GraphRenderer(name="graph")
    graph.layout_provider = StaticLayoutProvider(
        graph_layout={
            int(node): (int(token), int(level))
            for node, token, level in zip(
                nodes["index"], nodes["token"], nodes["level"], strict=True
            )
        }
    )
    graph.node_renderer.data_source.data = nodes
    graph.edge_renderer.data_source.data = edge_columns(edges, n)
    top = float(content.flows.max())
    palette = [grey()] if is_constant(content.flows) else shades()
    fill = LinearColorMapper(palette=palette, low=0, high=top, nan_color="white")
    size = 13 if n < 64 else 7
    node = Scatter(
        size=size, fill_color={"field": "flow", "transform": fill}, line_color=BLUE, line_width=1
    )
    graph.node_renderer.glyph = node
    graph.node_renderer.nonselection_glyph = node
    graph.node_renderer.selection_glyph = node.clone(line_color=RED, line_width=3)
    graph.node_renderer.hover_glyph = node.clone(line_color=ORANGE, line_width=3)
    line = MultiLine(
        line_color={"field": "weight", "transform": mapper}, line_width="width", line_alpha=0.55
    )
    graph.edge_renderer.glyph = line
    graph.edge_renderer.nonselection_glyph = line
    graph.edge_renderer.selection_glyph = line
    graph.edge_renderer.hover_glyph = line.clone(
        line_color=BLUE, line_width="pointed", line_alpha=0.9
    )
    graph.inspection_policy = NodesAndLinkedEdges()
    graph.selection_policy = NodesOnly()

    cuts = ColumnDataSource(cut_columns(content))
    clicked = IndexFilter(indices=[])
    graph.node_renderer.data_source.selected.js_link("indices", clicked, "indices")
    plot.renderers.append(graph)
    plot.multi_line(
        "xs",
        "ys",
        source=cuts,
        view=CDSView(filter=clicked),
        color=RED,
        line_width="width",
        name="cut",
    )
    name_tokens(plot.xaxis[0], content.tokens)
    plot.xaxis.major_label_orientation = 1.0
    plot.yaxis.ticker = list(range(depth + 1))
    plot.yaxis.major_label_overrides = {
        level: f"layer {level}" if level else "input" for level in range(depth + 1)
    }
    plot.add_tools(
        HoverTool(
            renderers=[graph],
            tooltips=(
                "<div style='max-width:20rem'><bdi>@token{custom}</bdi> (token @token), "
                "@level{custom}<br>flow <b>@flow{0.0000}</b><br><bdi>@words</bdi></div>"
            ),
            formatters={
                "@token": token_names(content.tokens),
                "@level": token_names(
                    ["in the input", *(f"after layer {level}" for level in range(1, depth + 1))]
                ),
            },
        ),
        TapTool(renderers=[graph]),
    )

    description = new_figure(
        "", height=20 + 18 * (LINES + 1), x_range=Range1d(0, 1), y_range=Range1d(0, 1)
    )
    description.axis.visible = False
    description.add_glyph(
        cuts,
        Text(
            x=0.005,
            y=0.98,
            text="words",
            text_font_size="12px",
            text_baseline="top",
            text_color=RED,
        ),
        view=CDSView(filter=clicked),
        name="cut-words",
    )
    return column(threshold, plot, description, sizing_mode="stretch_width")
