"""What storing a model less precisely does to its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow.models import Model
from jaxflow.train.batches import EncodedSplit, predict_split

__all__ = ["compare_models"]


def compare_models(
    trained: Model,
    stored: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
) -> dict[str, dict[str, Any]]:
    """Compare two models' predictions on splits that neither was trained on.

    Parameters
    ----------
    trained, stored
        A model, and the same model with its parameters rounded.
    splits, lengths
        Encoded sentences by split, and the lengths to pad them to.

    Returns
    -------
    dict
        Split -> ``n`` sentences, those left out as too long included; ``accuracy`` of `stored`,
        which counts those as wrong; ``accuracy_trained`` of `trained`; how many predictions
        ``changed``; and the ``max_probability_change`` of any sentence.
    """
    result = {}
    for name, split in splits.items():
        before = predict_split(trained.probabilities, split, lengths)
        after = predict_split(stored.probabilities, split, lengths)
        total = len(split) + split.too_long
        right = {
            key: int((values.argmax(-1) == split.labels).sum())
            for key, values in (("accuracy", after), ("accuracy_trained", before))
        }
        result[name] = {
            "n": total,
            **{key: count / total if total else None for key, count in right.items()},
            "changed": int((before.argmax(-1) != after.argmax(-1)).sum()),
            "max_probability_change": float(np.abs(before - after).max(initial=0.0)),
        }
    return result
