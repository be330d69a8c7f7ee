"""The layered flow graph: tokens as nodes, level by level, with the edges that flow runs through.

Pointing at a node shows its edges, clicking it the minimum cut between the token explained, at the
top, and that node. Bokeh's graph does the former; for the latter the rows of `cut_columns` stand in
the order of the nodes, so that what is selected there is what is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxflow.html.compact import Edges
from jaxflow.html.content import Content
from jaxflow.html.graph_columns import LINES, cut_columns, edge_columns, node_columns
from jaxflow.html.look import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    name_tokens,
    new_figure,
    shades,
    token_names,
)

if TYPE_CHECKING:
    from bokeh.models import UIElement

__all__ = ["flow_graph"]


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
    apart = edges.weight[edges.query != edges.key]
    highest = float(apart.max()) if apart.size else 1.0
    step = max(round(highest / 200, 5), 1e-5)
    # A picture that can be read at once: about four edges for every node, besides the residual.
    start = float(np.sort(apart)[-4 * depth * n]) if apart.size > 4 * depth * n else 0.0
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
    top = max((cut.value for (level, _), cut in content.cuts.items() if level == 0), default=1.0)
    fill = LinearColorMapper(palette=shades(), low=0, high=top, nan_color="white")
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

    told = new_figure(
        "", height=20 + 18 * (LINES + 1), x_range=Range1d(0, 1), y_range=Range1d(0, 1)
    )
    told.axis.visible = False
    told.add_glyph(
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
    return column(threshold, plot, told, sizing_mode="stretch_width")
