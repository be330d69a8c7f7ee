"""Draw two methods' scores of every token as bars, for the layer and head chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.html.content import Content
from jaxflow.html.style import (
    BLUE,
    RED,
    filters,
    grey,
    integers,
    name_tokens,
    new_figure,
    ties,
    token_names,
)

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Select, Slider, UIElement

DECIMALS = 5
ANY = 0  # the layer of a score that has no layers; layers count from 1 here


def score_columns(content: Content) -> dict[str, np.ndarray]:
    """Return one row for each bar that can be shown.

    Columns ``method`` (index into the layered methods, then the plain ones), ``layer`` (from 1,
    0 for plain methods), ``head`` (from 1, 0 for their mean), ``token``, ``score`` and ``tied``,
    how many tokens have the same score.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for place, values in enumerate(content.layered.values()):
        at = np.indices(values.shape)
        tied = np.apply_along_axis(ties, -1, values)
        parts.append((np.full(values.shape, place), at[0] + 1, at[1], at[2], tied, values))
    for place, values in enumerate(content.plain.values(), len(parts)):
        none = np.full(values.shape, ANY)
        tokens = np.arange(values.size)
        parts.append((np.full(values.shape, place), none, none, tokens, ties(values), values))
    names = ("method", "layer", "head", "token", "tied", "score")
    columns = {
        name: np.concatenate([part[column].ravel() for part in parts])
        for column, name in enumerate(names)
    }
    score = np.round(columns.pop("score"), DECIMALS).astype(np.float32)
    return {name: integers(values) for name, values in columns.items()} | {"score": score}


def bars(content: Content, layer: Slider, head: Select) -> UIElement:
    """Draw two panels, each with its own method, on one axis of tokens."""
    from bokeh.layouts import row
    from bokeh.models import ColumnDataSource, Range1d

    source = ColumnDataSource(score_columns(content))
    methods = [*content.layered, *content.plain]
    n = len(content.tokens)
    y_range = Range1d(n - 0.5, -0.5)
    panels = [_panel(content, source, methods, y_range, layer, head, side) for side in range(2)]
    return row(panels, sizing_mode="stretch_width")


def _panel(
    content: Content,
    source: ColumnDataSource,
    methods: Sequence[str],
    y_range: object,
    layer: Slider,
    head: Select,
    side: int,
) -> UIElement:
    from bokeh.layouts import column
    from bokeh.models import (
        CDSView,
        CustomJSHover,
        GroupFilter,
        HoverTool,
        IntersectionFilter,
        LinearColorMapper,
        Select,
        UnionFilter,
    )

    # Raw attention beside flow; with fewer methods, the last one.
    first = 0 if side == 0 else methods.index("flow")
    select = Select(
        title=("Method on the left", "Method on the right")[side],
        value=first,
        options=list(enumerate(methods)),
        name=f"method-{side}",
        sizing_mode="stretch_width",
    )
    by_method = GroupFilter(column_name="method", group=first)
    select.js_link("value", by_method, "group")
    by_layer, by_head = filters(layer, head)
    chosen = IntersectionFilter(operands=[by_layer, by_head])
    always = GroupFilter(column_name="layer", group=ANY)
    view = CDSView(
        filter=IntersectionFilter(operands=[by_method, UnionFilter(operands=[chosen, always])])
    )

    n = len(content.tokens)
    plot = new_figure(
        "save",
        height=60 + n * (18 if n < 64 else 12),
        y_range=y_range,
        name=f"bars-plot-{side}",
    )
    # Bars are grey where all tokens have the same score.
    colours = LinearColorMapper(
        palette=[(BLUE, RED)[side]], low=0, high=max(n - 1.5, 0.5), high_color=grey()
    )
    drawn = plot.hbar(
        y="token",
        right="score",
        height=0.75,
        source=source,
        view=view,
        color={"field": "tied", "transform": colours},
        name=f"bars-{side}",
    )
    if all((values >= 0).all() for values in (*content.layered.values(), *content.plain.values())):
        plot.x_range.start = 0
    name_tokens(plot.yaxis[0], content.tokens)
    tied = CustomJSHover(
        args={"others": n - 1},
        code="return !value ? '' : value == others ? ', the same for all tokens' "
        ": `, tied with ${value} other` + (value == 1 ? '' : 's')",
    )
    plot.add_tools(
        HoverTool(
            renderers=[drawn],
            tooltips="<bdi>@token{custom}</bdi> (token @token): <b>@score{0.00000}</b>"
            "@tied{custom}",
            formatters={"@token": token_names(content.tokens), "@tied": tied},
        )
    )
    return column(select, plot, sizing_mode="stretch_width")
