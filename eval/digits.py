"""How far attention's maps of digits agree with occlusion and with gradients.

For every test image and layer, the readout's row of raw attention, rollout and flow is compared
with what the model itself says of its patches: how far the predicted class's probability falls when
a patch is hidden, and how large the gradient of its logit is there. The tables are Spearman's
correlations over an image's patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import occlusion_maps, patch_gradients
from jaxflow.eval.explain.pixels import vision_config
from jaxflow.eval.explain.vision import VisionOptions, patch_scores
from jaxflow.models import Model
from jaxflow.train.digits_data import Images, normalised

__all__ = ["BASELINES", "ROWS", "TARGETS", "ImageScores", "Way", "score_digits"]


class Way(NamedTuple):
    """A way from attention to a map: the method, how heads are fused, the share discarded."""

    method: str
    heads: str
    ratio: float = 0.0

    @property
    def name(self) -> str:
        """Its row in the tables."""
        return f"{self.method} {self.heads}" + (f", {self.ratio:g} discarded" if self.ratio else "")


_FUSIONS = ("mean", "min", "max")

#: Row of the tables -> how it is made.
ROWS: Mapping[str, Way] = {
    way.name: way
    for way in (
        *(Way("raw", heads) for heads in _FUSIONS),
        *(Way("rollout", heads, ratio) for heads in _FUSIONS for ratio in (0.0, 0.5, 0.9)),
        *(Way("flow", heads) for heads in _FUSIONS),
    )
}

#: Rows without attention, or with no more than the first layer's: column sum of A[1], how near a
#: patch is to the middle of the image, how bright it is, and random numbers.
BASELINES = ("column sum", "middle", "ink", "random")

#: What maps are compared with: occlusion by the image's mean grey, by the background's black, and
#: the norm of the gradient of the predicted class's logit.
TARGETS = {
    "occlusion": "Occlusion by the image's mean grey",
    "occlusion_black": "Occlusion by black, the background",
    "gradient_norm": "Gradient norm at the embedded patches",
}

_AT_ONCE = 90  # images whose attention is held at a time


@dataclasses.dataclass(frozen=True, eq=False)
class ImageScores:
    """What every row says of S images of P patches, by a model of L layers.

    Attributes
    ----------
    maps
        Row -> float64 ``[S, L, P]``; a baseline says the same of every layer.
    targets
        Target -> float64 ``[S, P]``.
    saturated
        float64 ``[S, L]``: share of the pairs (readout, patch) whose flow, heads fused by their
        mean, is at its bound.
    correlations
        Target -> row -> float64 ``[S, L]``, NaN where one side is constant.
    images
        The images.
    predictions
        int ``[S]``, the classes asked about.
    """

    maps: dict[str, NDArray[np.float64]]
    targets: dict[str, NDArray[np.float64]]
    saturated: NDArray[np.float64]
    correlations: dict[str, dict[str, NDArray[np.float64]]]
    images: Images
    predictions: NDArray[np.int64]

    def arrays(self) -> dict[str, NDArray]:
        """Return everything by the names that ``maps.npz`` gives it; maps in float32."""
        return {
            **{f"maps/{name}": values.astype(np.float32) for name, values in self.maps.items()},
            **{f"targets/{name}": values for name, values in self.targets.items()},
            **{
                f"spearman/{target}/{name}": values
                for target, rows in self.correlations.items()
                for name, values in rows.items()
            },
            "saturated": self.saturated,
            "predictions": self.predictions,
            **self.images._asdict(),
        }


def score_digits(
    model: Model,
    images: Images,
    *,
    seed: int = 0,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> ImageScores:
    """Make every map of every image, and correlate them with the targets.

    Parameters
    ----------
    model
        A ViT that classifies images of the digits' size.
    images
        S of them.
    seed
        Of the random baseline.
    threads
        For flow; None takes all cores.
    report
        Called with the number of images done and their total.

    Raises
    ------
    InputError
        If there is no image, or the model is of another kind or size.
    """
    config = vision_config(model)
    if not len(images.labels):
        raise InputError("images must be at least one, got none")
    parts = []
    for start in range(0, len(images.labels), _AT_ONCE):
        now = images.at(slice(start, start + _AT_ONCE))
        parts.append(_score_some(model, now, seed, threads))
        report(start + len(now.labels), len(images.labels))
    maps, targets, saturated, predictions = (
        {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]},
        {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]},
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
    )
    shape = (len(images.labels), config.layers, config.grid[0] * config.grid[1])
    maps = {name: np.broadcast_to(values, shape) for name, values in maps.items()}
    correlations = {
        target: {
            name: np.asarray(jaxflow.spearman(values, reference[:, None]))
            for name, values in maps.items()
        }
        for target, reference in targets.items()
    }
    return ImageScores(maps, targets, saturated, correlations, images, predictions)


_Part = tuple[dict[str, NDArray], dict[str, NDArray], NDArray, NDArray]


def _score_some(model: Model, images: Images, seed: int, threads: int | None) -> _Part:
    """Return maps ``[S, L or 1, P]``, targets ``[S, P]``, saturated ``[S, L]``, classes ``[S]``."""
    config = vision_config(model)
    count = len(images.labels)
    pixels = np.asarray(normalised(images.grey, config), np.float32)
    output = model(pixels)
    attention = np.asarray(output.attention)
    classes = np.asarray(output.logits).argmax(-1)

    maps: dict[str, NDArray] = {}
    for name, way in ROWS.items():
        options = VisionOptions(config.readout, way.heads, way.ratio, threads=threads)
        maps[name] = patch_scores(attention, options, (way.method,))[way.method][..., 1:]
    sources = 0 if config.readout == "cls" else range(1, config.positions)
    bound = jaxflow.saturation(attention, sources=sources, threads=threads)
    (rows, columns), side = config.grid, config.patch
    down, across = np.indices(config.grid) - np.array([(rows - 1) / 2, (columns - 1) / 2]).reshape(
        2, 1, 1
    )
    ink = images.grey.reshape(count, rows, side, columns, side).mean((2, 4), dtype=np.float64)
    maps["column sum"] = bound.bound[:, None, 1:]
    maps["middle"] = np.broadcast_to(
        -np.hypot(down, across).reshape(1, 1, -1), (count, 1, ink[0].size)
    )
    maps["ink"] = ink.reshape(count, 1, -1)
    # Drawn by image, so that neither the batch nor the other images matter.
    shape = (config.layers, rows * columns)
    maps["random"] = np.stack(
        [np.random.default_rng([seed, int(row)]).random(shape) for row in images.rows]
    )
    targets = {
        "occlusion": occlusion_maps(model, pixels, classes, fill="mean"),
        "occlusion_black": occlusion_maps(model, pixels, classes, fill="black"),
        "gradient_norm": patch_gradients(model, pixels, classes),
    }
    flat = {name: values.reshape(count, -1) for name, values in targets.items()}
    return maps, flat, bound.reached[..., 1:].mean((-2, -1)), classes
