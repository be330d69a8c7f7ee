"""Draw explanations as PNG pictures: heat maps of sentences, and of patches over their image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.explain.text import cautions, headline, image_notes
from jaxflow.eval.explanation import Explanation, title_of
from jaxflow.eval.plots.style import (
    CONSTANT,
    GREY,
    INK,
    LONGEST,
    NOTE,
    SMALL,
    TITLE,
    clipped,
    colour_map,
    finish,
    ink,
    is_constant,
    look,
    new_figure,
    paint,
    save,
)
from jaxflow.files import write_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxflow.eval.explain.vision import ImageExplanation


DPI = 150
CELL = 0.72  # inches
_LETTERS = 15  # of the smallest text, an inch


def draw(explanations: Sequence[Explanation]) -> Figure:
    """Draw explanations, at least one, below each other."""
    longest = max(len(explanation.tokens) for explanation in explanations)
    height, width = 3.5, 2 + CELL * max(longest, 7)
    figure = new_figure(width, height * len(explanations) + 0.4)
    axes = figure.subplots(len(explanations), 1, squeeze=False)[:, 0]
    for axis, explanation in zip(axes, explanations, strict=True):
        _heat_map(axis, explanation)
    figure.supxlabel(fill(NOTE, int(_LETTERS * width)), fontsize=SMALL, color=GREY)
    return finish(figure)


def save_png(explanations: Sequence[Explanation], path: Path) -> None:
    """Draw explanations and write them in place as PNG, whatever the file is called."""
    save(draw(explanations), path, "png", dpi=DPI)


def _heat_map(axis: Any, explanation: Explanation) -> None:
    colours = [paint(values) for values in explanation.scores.values()]
    axis.imshow(np.array(colours, np.uint8), aspect="auto", interpolation="nearest")
    for row, values in enumerate(explanation.scores.values()):
        for column, score in enumerate(values.tolist()):
            colour = tuple(channel / 255 for channel in ink(colours[row][column]))
            axis.text(
                column, row, f"{score:.2g}", ha="center", va="center", fontsize=SMALL, color=colour
            )
    titles = [
        title_of(name) + ("\n(constant)" if name in explanation.constant else "")
        for name in explanation.scores
    ]
    axis.set_yticks(range(len(titles)), titles, fontsize=9)
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
    width = max(14 * len(explanation.tokens), LONGEST)
    texts = [explanation.text or " ".join(explanation.tokens)]
    texts += [] if explanation.pair is None else [explanation.pair]
    lines = [clipped(text, width) for text in texts] + [headline(explanation)]
    axis.set_title("\n".join(lines), fontsize=10, loc="left", parse_math=False)
    if remarks := cautions(explanation):
        across = int(_LETTERS * CELL * max(len(explanation.tokens), 7))
        lines = [fill(line, across) for line in remarks]
        axis.set_xlabel("\n".join(lines), fontsize=SMALL, color=GREY, loc="left")


OPACITY = 0.55
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
_LEAST = 224  # pixels of a shown picture's longer side; smaller ones are enlarged
_PANEL = 2.1  # inches


def enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat a small picture's pixels until its longer side has at least `_LEAST`."""
    times = -(-_LEAST // max(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)


def upsampled(
    scores: NDArray[np.floating], size: tuple[int, int], *, smooth: bool = True
) -> NDArray[np.float64]:
    """Bring a map of patches ``[rows, columns]`` to a picture's height and width.

    `smooth` interpolates linearly between the patches' middles; else every pixel has its patch's
    score.
    """
    from PIL import Image

    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    image = Image.fromarray(np.asarray(scores, np.float32))
    return np.asarray(image.resize((size[1], size[0]), resampling), np.float64)


def blended(
    picture: NDArray[np.uint8],
    scores: NDArray[np.floating],
    *,
    smooth: bool = True,
    opacity: float = OPACITY,
) -> NDArray[np.uint8]:
    """Blend a heat map ``[rows, columns]`` with a picture uint8 ``[height, width, 3]``.

    The picture is shown in shades of grey, so that every hue is a score's. The lowest score is
    shown in the first colour and the highest in the last, whatever they are; where all are equal
    but for rounding, all of it is grey.

    Raises `InputError` if the scores are not finite numbers of rows and columns, or the opacity is
    out of range.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise InputError(f"scores must be finite numbers [rows, columns], got {scores.shape}")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity must be from 0 to 1, got {opacity}")
    if is_constant(scores):
        colours: NDArray[np.float64] = np.array(CONSTANT) / 255
    else:
        shares = (scores - scores.min()) / np.ptp(scores)
        heat = upsampled(shares, picture.shape[:2], smooth=smooth).clip(0, 1)
        colours = colour_map()(heat)[..., :3]
    light = (picture @ _LUMA)[..., None]  # [height, width, 1]
    mixed = (1 - opacity) * light + opacity * 255 * colours
    return np.rint(mixed).astype(np.uint8)


def draw_overlays(
    explanation: ImageExplanation,
    *,
    methods: Sequence[str] | None = None,
    smooth: bool = True,
    opacity: float = OPACITY,
    colour_bar: bool = True,
) -> Figure:
    """Draw the picture with its class, and beside it the heat of every method.

    `methods` are some of its scores, None all; with `colour_bar` the range of the scores is written
    under each map.
    """
    chosen = _chosen(explanation, methods)
    picture = enlarged(explanation.picture)
    height, width = picture.shape[:2]
    tall = _PANEL * height / width
    wide = _PANEL * (len(chosen) + 1)
    remarks = [fill(line, int(_LETTERS * wide)) for line in image_notes(explanation, chosen)]
    below = 0.13 * sum(line.count("\n") + 1 for line in remarks)
    figure = new_figure(wide, tall + 0.24 + (0.34 if colour_bar else 0.0) + below, pad=0.05)
    axes = figure.subplots(1, len(chosen) + 1, squeeze=False)[0]
    _show(axes[0], picture, _title(explanation))
    if colour_bar:
        # An invisible bar, so that all panels have the same size.
        _bar(figure, axes[0], np.zeros((1, 1))).set_visible(False)
    for axis, method in zip(axes[1:], chosen, strict=True):
        scores = explanation.scores[method]
        _show(
            axis,
            blended(picture, scores, smooth=smooth, opacity=opacity),
            look(method).title,
        )
        if colour_bar:
            _bar(figure, axis, scores)
    if remarks:
        figure.supxlabel("\n".join(remarks), fontsize=SMALL, color=GREY)
    return finish(figure)


def _title(explanation: ImageExplanation) -> str:
    if explanation.prediction is None:
        return clipped(explanation.name, 24)
    name = clipped(explanation.labels[explanation.prediction], 24)
    value = explanation.probabilities[explanation.prediction]
    return (
        f"{name} = {value:.3g}" if explanation.answer == "regression" else f"{name} ({value:.2f})"
    )


def save_overlay(
    explanation: ImageExplanation,
    path: Path,
    *,
    methods: Sequence[str] | None = None,
    smooth: bool = True,
    opacity: float = OPACITY,
    colour_bar: bool = True,
    bare: bool = False,
) -> Path:
    """Write the overlays as a PNG, or with `bare` the blended picture of one method alone.

    Raises `InputError` if a method is not in the explanation, `bare` is given with more than one,
    or the file cannot be written.
    """
    if bare:
        from PIL import Image

        chosen = _chosen(explanation, methods)
        if len(chosen) != 1:
            raise InputError(f"bare must be asked for with one method, got {', '.join(chosen)}")
        mixed = blended(
            explanation.picture, explanation.scores[chosen[0]], smooth=smooth, opacity=opacity
        )
        writer = partial(Image.fromarray(mixed).save, format="png")
    else:
        figure = draw_overlays(
            explanation, methods=methods, smooth=smooth, opacity=opacity, colour_bar=colour_bar
        )
        writer = partial(save, figure, form="png", dpi=DPI)
    path = Path(path)
    (written,) = write_together(path.parent, {path.name: writer})
    return written


def _chosen(explanation: ImageExplanation, methods: Sequence[str] | None) -> list[str]:
    chosen = list(explanation.scores if methods is None else methods)
    unknown = [name for name in chosen if name not in explanation.scores]
    if unknown or not chosen:
        raise InputError(
            f"methods must be among {', '.join(explanation.scores)}, got "
            f"{', '.join(unknown) or 'none'}"
        )
    return chosen


def _show(axis: Any, picture: NDArray[np.uint8], title: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=TITLE, color=INK, pad=4, parse_math=False)


def _bar(figure: Figure, axis: Any, scores: NDArray[np.floating]) -> Any:
    """Write the range of the scores under a map; return the bar's axes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    low, high = float(scores.min()), float(scores.max())
    constant = is_constant(scores)
    colours = ListedColormap([tuple(part / 255 for part in CONSTANT)]) if constant else colour_map()
    scale = ScalarMappable(Normalize(low, high + constant), colours)
    bar = figure.colorbar(scale, ax=axis, orientation="horizontal", fraction=0.06, pad=0.04)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2, labelcolor=INK)
    if constant:
        bar.set_ticks([low + 0.5], labels=[f"constant: {high:.2g}"])
        return bar.ax
    bar.set_ticks(
        [low, high], labels=[f"{low:.1g}" if abs(low) < high / 100 else f"{low:.2g}", f"{high:.2g}"]
    )
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    return bar.ax
