"""Explanations as a PNG picture: one heat map a sentence, methods down, tokens across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.explain.explanation import METHODS, Explanation
from jaxflow.eval.explain.shade import LONGEST, NOTE, clipped, ink, relative, shade
from jaxflow.eval.explain.terminal import headline
from jaxflow.eval.plots.style import GREY, SMALL, finish, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "save_png"]

DPI = 150
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
    longest = max(len(explanation.tokens) for explanation in explanations)
    height = 3.5
    figure = new_figure(2 + CELL * max(longest, 7), height * len(explanations) + 0.3)
    axes = figure.subplots(len(explanations), 1, squeeze=False)[:, 0]
    for axis, explanation in zip(axes, explanations, strict=True):
        _heat_map(axis, explanation)
    figure.supxlabel(NOTE, fontsize=SMALL, color=GREY)
    return finish(figure)


def save_png(explanations: Sequence[Explanation], path: Path) -> None:
    """Draw explanations and write them in place as PNG, whatever the file is called."""
    save(draw(explanations), path, "png", dpi=DPI)


def _heat_map(axis: Any, explanation: Explanation) -> None:
    shares = np.stack([relative(explanation.scores[name]) for name in METHODS])
    colours = [[shade(share) for share in row] for row in shares.tolist()]
    axis.imshow(np.array(colours, np.uint8), aspect="auto", interpolation="nearest")
    for row, name in enumerate(METHODS):
        for column, score in enumerate(explanation.scores[name].tolist()):
            colour = tuple(channel / 255 for channel in ink(colours[row][column]))
            axis.text(
                column, row, f"{score:.2g}", ha="center", va="center", fontsize=SMALL, color=colour
            )
    axis.set_yticks(range(len(METHODS)), list(METHODS.values()), fontsize=9)
    axis.set_xticks(
        range(len(explanation.tokens)),
        [clipped(token.text) for token in explanation.tokens],
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
    sentence = clipped(explanation.text, max(14 * len(explanation.tokens), LONGEST))
    title = f"{sentence}\n{headline(explanation)}"
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)
