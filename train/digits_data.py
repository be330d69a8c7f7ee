"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, in three splits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models.vit import ViTConfig

__all__ = ["CLASSES", "SIDE", "Images", "load_digits", "normalised"]

SIDE, CLASSES = 8, 10
VAL, TEST = 180, 360  # images held out of the 1,797
SPLIT_SEED = 0  # the same images for every seed of training


class Images(NamedTuple):
    """Images and what they show.

    Attributes
    ----------
    grey
        float32 ``[S, 8, 8, 1]`` from 0 (background) to 1.
    labels
        int32 ``[S]``, the digits.
    rows
        int64 ``[S]``, their places in scikit-learn's data set.
    """

    grey: NDArray[np.float32]
    labels: NDArray[np.int32]
    rows: NDArray[np.int64]

    def at(self, places: Any) -> Images:
        """Return the images at some places, an index array or a slice."""
        return Images(self.grey[places], self.labels[places], self.rows[places])


def load_digits() -> dict[str, Images]:
    """Return the splits ``train`` (1,257 images), ``val`` (180) and ``test`` (360).

    Raises
    ------
    InputError
        If scikit-learn, which has the images, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            "the digits come with scikit-learn, which is not installed: pip install "
            "'jaxflow[vision]'"
        ) from error
    digits = datasets.load_digits()
    grey = (digits.images[..., None] / 16).astype(np.float32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(grey))
    parts = {"train": order[TEST + VAL :], "val": order[TEST : TEST + VAL], "test": order[:TEST]}
    every = Images(grey, digits.target.astype(np.int32), np.arange(len(grey)))
    return {name: every.at(np.sort(rows)) for name, rows in parts.items()}


def normalised(grey: Any, model: ViTConfig) -> Any:
    """Turn values from 0 to 1, ``[..., channels]``, into what the model takes."""
    mean, std = (np.asarray(values, np.float32) for values in (model.mean, model.std))
    ahead = (1,) * (np.ndim(grey) - 1)
    return (grey - mean.reshape(*ahead, -1)) / std.reshape(*ahead, -1)
