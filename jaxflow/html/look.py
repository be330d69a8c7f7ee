"""What all views share: colours, the names of tokens on axes and in tooltips, an empty figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.html.text import short, visible

if TYPE_CHECKING:
    from bokeh.models import CustomJSHover
    from bokeh.plotting import figure

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "RED",
    "integers",
    "name_tokens",
    "new_figure",
    "shades",
    "token_names",
]

# Okabe and Ito's palette: told apart with every kind of colour vision.
BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#8a96a3"

LONGEST = 16  # characters of a token on an axis
SMALL = 64  # from this many tokens on, labels are small


def integers(values: Any) -> NDArray[np.integer]:
    """Store indices in one byte where that is enough; Bokeh knows no 64-bit integers."""
    array = np.asarray(values)
    return array.astype(np.uint8 if array.size == 0 or array.max() < 256 else np.int32)


def shades() -> list[str]:
    """White to dark blue in 256 shades that spread small values: shade k stands for (k / 255)²."""
    from bokeh.palettes import Blues256

    places = np.rint(255 * np.sqrt(np.linspace(0, 1, 256))).astype(int)
    return [Blues256[255 - place] for place in places]


def token_names(tokens: Sequence[str]) -> CustomJSHover:
    """Write a position in a tooltip as the token there."""
    from bokeh.models import CustomJSHover

    names = [visible(token) for token in tokens]
    return CustomJSHover(args={"names": names}, code="return names[Math.round(value)]")


def name_tokens(axis: Any, tokens: Sequence[str]) -> None:
    """Write tokens on an axis that counts them from 0, as text that nothing reads as a formula."""
    from bokeh.models import FixedTicker, PlainText

    places = range(len(tokens))
    axis.ticker = FixedTicker(ticks=list(places))
    axis.major_label_overrides = {
        place: PlainText(text=short(visible(tokens[place]), LONGEST)) for place in places
    }
    axis.major_label_text_font_size = "11px" if len(tokens) < SMALL else "8px"
    axis.major_tick_line_color = None


def new_figure(tools: str, **options: Any) -> figure:
    """Return a figure without a logo and without grid lines, as wide as the page."""
    from bokeh.plotting import figure

    plot = figure(
        tools=tools,
        sizing_mode="stretch_width",
        toolbar_location="above" if tools else None,
        output_backend="canvas",
        **options,
    )
    plot.toolbar.logo = None
    plot.grid.visible = False
    plot.outline_line_color = None
    return plot
