"""What all pictures of scores share: the colour of a score, and text that is safe to show."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOTE", "Colour", "ink", "relative", "shade", "visible"]

Colour = tuple[int, int, int]

#: What every picture says about its shading.
NOTE = (
    "Shaded from 0 to each method's largest score: compare tokens within a method, not numbers "
    "between methods."
)

# White to a dark blue: one hue, lightness falling evenly, readable in print and by everyone.
_STOPS: tuple[Colour, ...] = ((255, 255, 255), (198, 219, 239), (107, 174, 214), (8, 81, 156))

# Characters that reorder the text around them: shown by name, so that a token cannot disguise
# itself or its neighbours.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def relative(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide scores by their largest one: 0 to 1, all 0 where no score is above 0."""
    top = float(np.max(scores))
    return np.clip(scores / top, 0, 1) if top > 0 else np.zeros_like(scores)


def shade(share: float) -> Colour:
    """Return the colour of a relative score from 0 to 1."""
    place = min(max(float(share), 0.0), 1.0) * (len(_STOPS) - 1)
    low = min(int(place), len(_STOPS) - 2)
    part = place - low
    red, green, blue = (
        round(start + part * (end - start))
        for start, end in zip(_STOPS[low], _STOPS[low + 1], strict=True)
    )
    return red, green, blue


def ink(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on the colour."""
    red, green, blue = (channel / 255 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else (255, 255, 255)


def visible(text: str) -> str:
    r"""Write control characters as escapes; every other character stays.

    Examples
    --------
    >>> visible("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in ("Cc", "Cs") or char in _REORDERING
        else char
        for char in text
    )
