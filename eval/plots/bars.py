"""Bars of token scores: one panel a method, one bar a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.explain.shade import clipped
from jaxflow.eval.plots.style import (
    COLUMN,
    INK,
    PAGE,
    SMALL,
    TITLE,
    dress,
    finish,
    look,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_token_bars"]

PITCH = 0.15  # inches between tokens
LETTER = 0.062  # inches, an average letter of 7 points
NARROWEST = 0.44  # inches, a panel


def draw_token_bars(
    scores: Mapping[str, NDArray[np.floating]], tokens: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw what every method says of each token, a panel a method on a scale of its own.

    Parameters
    ----------
    scores
        Method, or the title to show -> ``[n]``, none negative.
    tokens
        The n tokens, top to bottom.
    title
        Above all panels.
    """
    labels = [clipped(token) for token in tokens]
    left = 0.15 + LETTER * max(map(len, labels))
    need = left + len(scores) * (NARROWEST + 0.08)
    width = next((width for width in (COLUMN, PAGE) if need <= width), need)
    figure = new_figure(width, 0.75 + (0.2 if title else 0) + PITCH * len(labels))
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for place, (axes, (name, values)) in enumerate(zip(panels, scores.items(), strict=True)):
        shown = look(name, place)
        dress(axes)
        # A word a line: titles side by side must not meet.
        words = shown.title.replace("-", "-\n").replace(" ", "\n")
        axes.set_title(words, fontsize=SMALL, color=INK, pad=4, parse_math=False)
        axes.barh(range(len(labels)), values, height=0.7, color=shown.colour)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        axes.tick_params(axis="y", length=0)
        top = float(np.max(values))
        axes.set_xlim(0, top * 1.02 if top > 0 else 1)
        axes.set_xticks([top if top > 0 else 1], [f"{top:.2g}"], ha="right")
    panels[0].invert_yaxis()
    if title:
        figure.suptitle(title, fontsize=TITLE, color=INK, parse_math=False)
    return finish(figure)
