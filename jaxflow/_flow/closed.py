"""Two layers: the flow in closed form.

Statement: with two layers every path s -> j -> t has its two edges to itself, so the flow is
``sum_j min(A[1][s, j], A[0][j, t])``. The same sum over any two neighbouring layers weighs the
cheapest way to cut all two-step paths, which is what the bounds are made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import least, load, spread

__all__ = ["two_steps"]


@bare
def two_steps(row: np.ndarray, below: np.ndarray, first: int, last: int, column: int) -> Any:
    """Return ``sum_j min(row[j], below[j, t])`` for the lanes t from `column` on.

    Only nodes from `first` to before `last` are looked at.
    """
    total = spread(0.0)
    for j in range(first, last):
        total = total + least(spread(row[j]), load(below, j, column))
    return total
