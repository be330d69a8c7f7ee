"""Compute a picture's fingerprint, which tolerates small changes, and the places of text."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_hex

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

CELLS = 16
NOTICEABLE = 2.0  # of 255: smaller steps between cells are rounding


def fingerprint(figure: Figure) -> str:
    """Return where the picture gets lighter to the right and downward (a difference hash).

    The picture is averaged over 17 x 17 cells, in which letters of another cut or lines that lie a
    pixel further are lost, and every step between neighbouring cells gives a bit.
    """
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="white")
    image = Image.open(buffer).convert("L")
    small = image.resize((CELLS + 1, CELLS + 1), Image.Resampling.BOX)
    cells = np.asarray(small, np.float64)
    right = np.diff(cells, axis=1)[:CELLS] > NOTICEABLE
    down = np.diff(cells, axis=0)[:, :CELLS] > NOTICEABLE
    return np.packbits(np.stack([right, down])).tobytes().hex()


def distance(first: str, second: str) -> float:
    """Share of the bits in which two fingerprints differ."""
    pair = (np.frombuffer(bytes.fromhex(one), np.uint8) for one in (first, second))
    one, other = (np.unpackbits(values) for values in pair)
    return float((one != other).mean())


def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, with its box in pixels."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    found = figure.findobj(lambda artist: isinstance(artist, Text))
    beyond = _beyond(figure)
    shown = [
        text
        for text in dict.fromkeys(found)
        if text.get_text() and text.get_visible() and id(text) not in beyond
    ]
    return [(text, text.get_window_extent(renderer)) for text in shown]


def _beyond(figure: Figure) -> set[int]:
    """Labels of ticks that lie beyond the axis, or on axes that are switched off."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not (axes.axison and low <= tick.get_loc() <= high):
                    hidden |= {id(tick.label1), id(tick.label2)}
    return hidden


def check_text(figure):
    """All text is at least 7 points high, inside the picture and away from other text."""
    width, height = figure.canvas.get_width_height()
    boxes = texts(figure)
    for text, box in boxes:
        assert text.get_fontsize() >= 7, text.get_text()
        assert min(box.x0, box.y0) >= -1, text.get_text()
        assert max(box.x1 - width, box.y1 - height) <= 1, text.get_text()
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) <= 1, f"{one.get_text()!r}, {other.get_text()!r}"


def check_line(axes: Any, label: str, means: Sequence[float], intervals: Sequence[Any]) -> str:
    """A line of that label has the means, and the band of its colour the intervals; its colour."""
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    np.testing.assert_allclose(line.get_ydata(), means)
    colour = to_hex(line.get_color()).upper()
    bands = {to_hex(band.get_facecolor()[0]).upper(): band for band in axes.collections}
    points = bands[colour].get_paths()[0].vertices
    edges = [points[points[:, 0] == x, 1] for x in np.unique(points[:, 0])]
    np.testing.assert_allclose([(ys.min(), ys.max()) for ys in edges], intervals)
    return colour
