"""Entrants that are one method under several names, on the model that is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.leaderboard.board import Board

__all__ = ["TOLERANCE", "alike"]

#: Of the largest score: what single precision rounds is no difference.
TOLERANCE = 1e-4
_FEW = 50  # sentences that tell most entrants apart


def alike(boards: Sequence[Board], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Find entrants that say the same of every token of every sentence, in every run.

    Two that a model makes equal, such as norms with and without a LayerNorm that the block has not,
    would look like independent witnesses in a table.

    Parameters
    ----------
    boards
        One for each training seed.
    names
        The entrants; of each the top layer is compared.

    Returns
    -------
    tuple
        Groups of two or more, in the order of `names`.
    """
    scores = [
        {name: board.scores.values[name][:, -1] for name in names if name in board.scores.values}
        for board in boards
    ]
    groups: list[list[str]] = []
    for name in names:
        if not all(name in told for told in scores):
            continue
        for group in groups:
            if all(_same(told[name], told[group[0]]) for told in scores):
                group.append(name)
                break
        else:
            groups.append([name])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return _close(one[:_FEW], other[:_FEW]) and _close(one, other)


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    largest = np.abs(one).max(initial=0)
    return bool((np.abs(one - other) <= TOLERANCE * largest).all())
