"""Digits with the maps of every method laid over them, a line an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.explain.overlay import blended, enlarged
from jaxflow.eval.explain.pixels import vision_config
from jaxflow.eval.plots.style import INK, PAGE, SMALL, finish, new_figure
from jaxflow.models import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxflow.eval.digits import ImageScores

__all__ = ["choose_digits", "draw_digits"]

#: Column's title -> row of the tables.
COLUMNS = {
    "raw\n": "raw mean",
    "rollout\n": "rollout mean",
    "rollout\nheads' min": "rollout min",
    "rollout\n.9 discarded": "rollout mean, 0.9 discarded",
    "flow\n": "flow mean",
}
TARGET = "occlusion"
PICTURE = 96  # pixels of a side


def choose_digits(scores: ImageScores) -> list[int]:
    """Return the place of the first image of each class, by class: nothing is picked by hand."""
    labels = scores.images.labels
    return [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]


def draw_digits(model: Model, scores: ImageScores) -> Figure:
    """Draw the first test image of each digit, the top layer's maps and occlusion over it.

    Digits are drawn in black on white, paler under a map. Blue is the map's lowest patch, red its
    highest. Under each stands its correlation with occlusion on that image, under occlusion the
    largest fall of the probability.
    """
    config = vision_config(model)
    places = choose_digits(scores)
    width = PAGE
    side = width / (len(COLUMNS) + 2)
    figure = new_figure(width, len(places) * (side + 0.08) + 0.3, pad=0.02)
    grid = figure.subplots(len(places), len(COLUMNS) + 2, squeeze=False)
    for line, place in zip(grid, places, strict=True):
        picture = _on_white(scores.images.grey[place])
        pale = 255 - (255 - picture) // 2
        predicted = config.labels[int(scores.predictions[place])]
        truth = str(int(scores.images.labels[place]))
        line[0].imshow(picture)
        line[0].set_xlabel(predicted if predicted == truth else f"{predicted} (is {truth})")
        for axis, row in zip(line[1:-1], COLUMNS.values(), strict=True):
            axis.imshow(
                blended(pale, scores.maps[row][place, -1].reshape(config.grid), smooth=False)
            )
            found = scores.correlations[TARGET][row][place, -1]
            axis.set_xlabel("n/a" if np.isnan(found) else f"{found:.2f}")
        line[-1].imshow(
            blended(pale, scores.targets[TARGET][place].reshape(config.grid), smooth=False)
        )
        line[-1].set_xlabel(f"{-1 * scores.targets[TARGET][place].max():.1g}")
    for axis, title in zip(
        grid[0], ("predicted\n", *COLUMNS, "occlusion\nlargest fall"), strict=True
    ):
        axis.set_title(title, fontsize=SMALL, color=INK, pad=4)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.xaxis.label.set(fontsize=SMALL, color=INK)
        axis.xaxis.labelpad = 2
    return finish(figure)


def _on_white(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    ink = np.rint(255 * (1 - grey[..., 0])).astype(np.uint8)
    return enlarged(np.repeat(ink[..., None], 3, -1), PICTURE)
