"""How often a model is right: overall and by the number of attractors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxflow.train.batches import EncodedSplit, evaluation_batches

__all__ = ["accuracies", "predict_split"]


def predict_split(
    predict: Callable[[np.ndarray], Any],
    split: EncodedSplit,
    lengths: tuple[int, ...],
    batch: int = 128,
) -> np.ndarray:
    """Return the classes' probabilities float64 ``[N, C]`` in the split's order."""
    result: np.ndarray | None = None
    for rows, inputs in evaluation_batches(split, lengths, batch):
        probabilities = np.asarray(predict(inputs["tokens"]), np.float64)
        if result is None:
            result = np.zeros((len(split), probabilities.shape[-1]))
        result[rows] = probabilities[: len(rows)]
    return np.zeros((0, 2)) if result is None else result


def accuracies(
    predict: Callable[[np.ndarray], Any],
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
) -> dict[str, dict[str, float | int]]:
    """Return ``{split: {"accuracy", "n", "too_long"}}``; a sentence left out counts as wrong."""
    report: dict[str, dict[str, float | int]] = {}
    for name, split in splits.items():
        right = predict_split(predict, split, lengths).argmax(-1) == split.labels
        total = len(split) + split.too_long
        report[name] = {
            "accuracy": float(right.sum() / total) if total else float("nan"),
            "n": total,
            "too_long": split.too_long,
        }
    return report
