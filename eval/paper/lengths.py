"""Sentences by their length, in the bands that tables and figures share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LENGTHS", "length_bands"]

#: Where a band of sentence lengths begins, in tokens with [CLS].
LENGTHS = (2, 4, 6, 9, 15)


def length_bands(lengths: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Return which sentences are in each band, bool ``[S]`` by label, of every band that has some.

    Examples
    --------
    >>> {label: member.tolist() for label, member in length_bands(np.array([3, 20, 2])).items()}
    {'2–3': [True, False, True], '15+': [False, True, False]}
    """
    found = {}
    for start, after in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        member = (lengths >= start) if after is None else (lengths >= start) & (lengths < after)
        if member.any():
            found[f"{start}+" if after is None else f"{start}–{after - 1}"] = member
    return found
