"""Draw the attention of every token to every other as a heat map, for the layer and head chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.html.content import Maps
from jaxflow.html.style import filters, grey, integers, name_tokens, new_figure, shades, token_names

if TYPE_CHECKING:
    from bokeh.models import Select, Slider, UIElement


def map_columns(maps: Maps) -> dict[str, object]:
    """Return one row for each map: ``image`` ``[n, n]`` in steps, ``layer`` from 1, ``head``.

    And whether all of its entries are the same, ``constant``.
    """
    layer, head = (axis.ravel() for axis in np.indices(maps.steps.shape[:2]))
    images = [maps.steps[at] for at in zip(layer, head, strict=True)]
    constant = integers([np.ptp(image) == 0 for image in images])
    return {
        "image": images,
        "layer": integers(layer + 1),
        "head": integers(head),
        "constant": constant,
    }


def heat_map(tokens: Sequence[str], maps: Maps, layer: Slider, head: Select) -> UIElement:
    """Draw queries down and keys across; a cell's tooltip shows its value."""
    from bokeh.models import (
        CDSView,
        ColorBar,
        ColumnDataSource,
        CustomJSHover,
        FixedTicker,
        GroupFilter,
        HoverTool,
        IntersectionFilter,
        LinearColorMapper,
        Range1d,
    )

    n = len(tokens)
    by_layer, by_head = filters(layer, head, heads=maps.heads > 0)
    size = max(420, min(1000, 150 + n * 14))
    plot = new_figure(
        "save,box_zoom,reset",
        height=size,
        max_width=size + 60,
        x_range=Range1d(-0.5, n - 0.5),
        y_range=Range1d(n - 0.5, -0.5),
        x_axis_label="key: the token attended to",
        y_axis_label="query: the token that attends",
        name="map-plot",
    )
    high = max(int(maps.steps.max()), 1)
    mapper = LinearColorMapper(palette=shades(), low=0, high=high)
    source = ColumnDataSource(map_columns(maps))
    place = {"image": "image", "x": -0.5, "y": -0.5, "dw": n, "dh": n, "source": source}
    drawn = plot.image(
        **place,
        color_mapper=mapper,
        view=CDSView(filter=IntersectionFilter(operands=[by_layer, by_head])),
        name="map",
    )
    constant = GroupFilter(column_name="constant", group=1)
    plot.image(
        **place,
        color_mapper=LinearColorMapper(palette=[grey()], low=0, high=high),
        view=CDSView(filter=IntersectionFilter(operands=[by_layer, by_head, constant])),
        name="constant-map",
    )
    name_tokens(plot.xaxis[0], tokens)
    name_tokens(plot.yaxis[0], tokens)
    plot.xaxis.major_label_orientation = "vertical"
    ticks = [share * high for share in (0, 0.05, 0.2, 0.4, 0.6, 0.8, 1)]
    plot.add_layout(
        ColorBar(
            color_mapper=mapper,
            ticker=FixedTicker(ticks=ticks),
            major_label_overrides={tick: f"{tick * maps.step:.2g}" for tick in ticks},
            width=12,
        ),
        "right",
    )
    decimals = len(f"{maps.step:g}") - 2
    value = CustomJSHover(
        args={"step": maps.step, "decimals": decimals},
        code="return (value * step).toFixed(decimals)",
    )
    names = token_names(tokens)
    plot.add_tools(
        HoverTool(
            renderers=[drawn],
            tooltips="<bdi>$y{custom}</bdi> → <bdi>$x{custom}</bdi>: <b>@image{custom}</b>",
            formatters={"$x": names, "$y": names, "@image": value},
        )
    )
    return plot
