"""The splits of the synthetic corpus, drawn from the built-in grammar without overlap."""

from __future__ import annotations

from jaxflow.errors import InputError
from jaxflow.train.formats import Example
from jaxflow.train.grammar import generate

__all__ = ["HELD_OUT_SIZES", "TRAIN_SIZE", "TRAIN_WEIGHTS", "synthetic_splits"]

# Whoever changes one of these raises GRAMMAR_VERSION too, or caches keep the old corpus.
TRAIN_SIZE = 40_000
HELD_OUT_SIZES = {"val": 1_000, "test": 2_000} | {f"test_{k}": 300 for k in range(1, 6)}
TRAIN_WEIGHTS = (0.40, 0.20, 0.14, 0.11, 0.08, 0.07)
"""Shares of 0 ... 5 attractors in ``train``: natural ones hold too few examples with many."""


def synthetic_splits(seed: int = 0, size: int = TRAIN_SIZE) -> dict[str, list[Example]]:
    """Make the whole synthetic corpus.

    Parameters
    ----------
    seed : int
        Decides every split. The held-out splits do not depend on ``size``.
    size : int
        Number of training rows; held-out splits keep their sizes.

    Returns
    -------
    dict of str to list of Example
        ``train``, ``val``, ``test`` and ``test_1`` ... ``test_5``. No prefix of a held-out split
        occurs in another split or twice in its own; within ``train`` short ones are repeated.

    Raises
    ------
    InputError
        If ``size`` is below one or ``seed`` is negative.
    """
    if size < 1:
        raise InputError(f"a synthetic corpus needs at least one training row, not {size}.")
    held_out: dict[str, list[Example]] = {}
    seen: set[str] = set()
    for number, (name, wanted) in enumerate(HELD_OUT_SIZES.items(), start=1):
        k = int(name[-1]) if name.startswith("test_") else None
        rows = held_out[name] = []
        for example in generate((seed, number), None, k):
            if example.prefix not in seen:
                seen.add(example.prefix)
                rows.append(example)
                if len(rows) == wanted:
                    break
    train: list[Example] = []
    for example in generate((seed, 0), None, weights=TRAIN_WEIGHTS):
        if example.prefix not in seen:
            train.append(example)
            if len(train) == size:
                break
    return {"train": train} | held_out
