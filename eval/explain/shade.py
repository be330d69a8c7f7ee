"""What all pictures of scores share: the colour of a score, and text that is safe to show."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.plots.style import SEQUENTIAL
from jaxflow.html.style import visible

__all__ = ["LONGEST", "NOTE", "Colour", "clipped", "ink", "relative", "shade", "visible"]

Colour = tuple[int, int, int]

#: What every picture says about its shading.
NOTE = (
    "Shaded from 0 to each method's largest score: compare tokens within a method, not numbers "
    "between methods."
)

LONGEST = 18  # characters of a token before a picture cuts it


def relative(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide scores by their largest one: 0 to 1, all 0 where no score is above 0."""
    top = float(np.max(scores))
    return np.clip(scores / top, 0, 1) if top > 0 else np.zeros_like(scores)


def shade(share: float) -> Colour:
    """Return the colour of a relative score from 0 to 1."""
    place = min(max(float(share), 0.0), 1.0) * (len(SEQUENTIAL) - 1)
    low = min(int(place), len(SEQUENTIAL) - 2)
    part = place - low
    red, green, blue = (
        round(start + part * (end - start))
        for start, end in zip(SEQUENTIAL[low], SEQUENTIAL[low + 1], strict=True)
    )
    return red, green, blue


def ink(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on the colour."""
    red, green, blue = (channel / 255 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else (255, 255, 255)


def clipped(text: str, longest: int = LONGEST) -> str:
    """Make text fit to be drawn: `visible`, nothing that joins characters, cut where it is long.

    Examples
    --------
    >>> clipped("incomprehensibilities")
    'incomprehensibili…'
    """
    # Emoji are joined from several characters that no plain font knows how to combine.
    shown = "".join(char for char in visible(text) if unicodedata.category(char) != "Cf")
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
