"""Provide safe text, colours, token names on axes and in tooltips, and an empty figure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bokeh.models import CustomJSHover, GroupFilter, Select, Slider
    from bokeh.plotting import figure

# Characters that reorder the text around them: shown by name, so that no token looks like another.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, unpaired surrogates, and the two separators that break lines.
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))

# Okabe and Ito's palette: distinguishable with every kind of colour vision.
BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#8a96a3"
#: White to a dark blue on a line of CIELAB: equal steps look equal, in print and to everyone.
SEQUENTIAL = ((255, 255, 255), (185, 193, 222), (114, 134, 189), (8, 81, 156))
CONSTANT = (190, 190, 190)  # where all scores are the same
TIE = 1e-5  # scores that differ by less, as a share of the largest, differ by rounding

LONGEST = 16  # characters of a token on an axis
SMALL = 64  # from this many tokens on, labels are small


def visible(text: str) -> str:
    r"""Write control characters as escapes; every other character stays.

    Examples
    --------
    >>> visible("a\x1b[31m\u202eb\u2028")
    'a\\x1b[31m\\u202eb\\u2028'
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _UNSEEN or char in _REORDERING
        else char
        for char in text
    )


def short(text: str, longest: int) -> str:
    """Cut a text that is longer and end it with an ellipsis.

    Examples
    --------
    >>> short("cabinet", 5)
    'cabi…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def integers(values: Any) -> NDArray[np.integer]:
    """Store indices in one byte where that is enough; Bokeh has no 64-bit integers."""
    array = np.asarray(values)
    return array.astype(np.uint8 if array.size == 0 or array.max() < 256 else np.int32)


def is_constant(scores: NDArray[Any]) -> bool:
    """Return whether scores are all the same, but for rounding."""
    return float(np.ptp(scores)) <= TIE * float(np.max(np.abs(scores)))


def ties(scores: NDArray[np.floating]) -> NDArray[np.integer]:
    """Return for each of the scores ``[n]`` how many others are the same, but for rounding."""
    close = np.abs(scores[:, None] - scores) <= TIE * np.abs(scores).max()
    return np.asarray(close.sum(-1) - 1)


def shades() -> list[str]:
    """Return `SEQUENTIAL` in 256 shades that spread small values: shade k is (k / 255)²."""
    places = np.sqrt(np.linspace(0, 1, 256)) * (len(SEQUENTIAL) - 1)
    channels = [
        np.interp(places, range(len(SEQUENTIAL)), one) for one in zip(*SEQUENTIAL, strict=True)
    ]
    return ["#" + bytes(colour).hex() for colour in np.rint(channels).T.astype(np.uint8)]


def grey() -> str:
    """Return the colour of what is constant."""
    return "#" + bytes(CONSTANT).hex()


def token_names(tokens: Sequence[str]) -> CustomJSHover:
    """Return a formatter that shows a position in a tooltip as the token there."""
    from bokeh.models import CustomJSHover

    names = [visible(token) for token in tokens]
    return CustomJSHover(args={"names": names}, code="return names[Math.round(value)]")


def name_tokens(axis: Any, tokens: Sequence[str]) -> None:
    """Label an axis that counts tokens from 0 with them, as text that is not read as a formula."""
    from bokeh.models import FixedTicker, PlainText

    places = range(len(tokens))
    axis.ticker = FixedTicker(ticks=list(places))
    axis.major_label_overrides = {
        place: PlainText(text=short(visible(tokens[place]), LONGEST)) for place in places
    }
    axis.major_label_text_font_size = "11px" if len(tokens) < SMALL else "8px"
    axis.major_tick_line_color = None


def filters(layer: Slider, head: Select, heads: bool = True) -> tuple[GroupFilter, GroupFilter]:
    """Return filters of rows by layer and head; without `heads` only head 0, their mean."""
    from bokeh.models import GroupFilter

    by_layer = GroupFilter(column_name="layer", group=layer.value)
    by_head = GroupFilter(column_name="head", group=head.value if heads else 0)
    layer.js_link("value", by_layer, "group")
    if heads:
        head.js_link("value", by_head, "group")
    return by_layer, by_head


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
