"""Explanations as a PNG picture: one heat map a sentence, methods down, tokens across."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.explanation import METHODS, Explanation
from jaxflow.eval.render.shade import NOTE, ink, relative, shade, visible
from jaxflow.eval.render.terminal import headline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "save_png"]

DPI = 150
LONGEST = 18  # characters of a token before it is cut
CELL = 0.72  # inches


def draw(explanations: Sequence[Explanation]) -> Figure:
    """Draw explanations below each other.

    Parameters
    ----------
    explanations
        At least one.

    Returns
    -------
    matplotlib.figure.Figure
        A figure of its own: nothing of matplotlib's global state is touched.
    """
    from matplotlib.figure import Figure

    longest = max(len(explanation.tokens) for explanation in explanations)
    height = 3.5
    figure = Figure(
        figsize=(2 + CELL * max(longest, 7), height * len(explanations) + 0.3),
        layout="constrained",
    )
    axes = figure.subplots(len(explanations), 1, squeeze=False)[:, 0]
    for axis, explanation in zip(axes, explanations, strict=True):
        _heat_map(axis, explanation)
    figure.supxlabel(NOTE, fontsize=7, color="#44566a")
    return figure


def save_png(explanations: Sequence[Explanation], path: Path) -> None:
    """Draw explanations and write them in place as PNG, whatever the file is called."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(explanations)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box; the page shows it properly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(path, format="png", dpi=DPI)


def _heat_map(axis: Any, explanation: Explanation) -> None:
    shares = np.stack([relative(explanation.scores[name]) for name in METHODS])
    colours = [[shade(share) for share in row] for row in shares.tolist()]
    axis.imshow(np.array(colours, np.uint8), aspect="auto", interpolation="nearest")
    for row, name in enumerate(METHODS):
        for column, score in enumerate(explanation.scores[name].tolist()):
            colour = tuple(channel / 255 for channel in ink(colours[row][column]))
            axis.text(
                column, row, f"{score:.2g}", ha="center", va="center", fontsize=7, color=colour
            )
    axis.set_yticks(range(len(METHODS)), list(METHODS.values()), fontsize=9)
    axis.set_xticks(
        range(len(explanation.tokens)),
        [_label(token.text) for token in explanation.tokens],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=9,
        parse_math=False,  # a token such as $x$ is text, not a formula
    )
    for label, token in zip(axis.get_xticklabels(), explanation.tokens, strict=True):
        label.set_style("normal" if token.known else "italic")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    title = f"{_label(explanation.text, 14 * len(explanation.tokens))}\n{headline(explanation)}"
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)


def _label(text: str, longest: int = LONGEST) -> str:
    # Emoji are joined from several characters that no plain font knows how to combine.
    shown = "".join(char for char in visible(text) if unicodedata.category(char) != "Cf")
    longest = max(longest, LONGEST)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
