"""Bounds on many flows at once: cuts from above, the layer below from below.

Statement: the flow from (layer, s) to t is at most what the row of s sends, what the column of t
takes, and the weight of two more cuts,

* ``sum_{h=2..layer} sum_{k!=s} A[h][s, k] + sum_i min(A[1][s, i], A[0][i, t])``: whatever does not
  leave the vertical line of s above layer 1 has two steps left;
* ``sum_{h=0..layer-2} sum_{k!=t} A[h][k, t] + sum_j min(A[layer][s, j], A[layer-1][j, t])``: the
  same from the other end, along the line of t.

On trained attention one of the four nearly always is the flow.

From below: let r be the sum of the source's row and take from every token j of the layer below a
share ``A[layer][s, j] / r`` of its own largest flow. The shares sum to 1, so no edge is overfilled,
and j is asked for no more than the row gives it as long as its flow is at most r. Where a sink is
saturated for all sources of one layer, it so stays saturated in all layers above.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from jaxflow.flow.lanes import least, load, lowered, spread

__all__ = ["inherited", "upper_bound"]


@njit(nogil=True)
def upper_bound(
    sends: float,
    strays: float,
    into: np.ndarray,
    others: np.ndarray,
    layer: int,
    column: int,
    lowest: Any,
    highest: Any,
) -> Any:
    """Return the least of the four cuts for the lanes from `column` on.

    `sends` is the sum of the source's row, `strays` what its line loses to others from layer 2 up
    to `layer`; `lowest` and `highest` are the two-step sums of the two cuts.
    """
    bound = least(spread(sends), load(into, 0, column))
    bound = least(bound, spread(strays) + lowest)
    return least(bound, load(others, layer - 2, column) + highest)


@njit(nogil=True)
def inherited(
    line: np.ndarray, sends: float, below: np.ndarray, peak: np.ndarray, column: int
) -> Any:
    """Return a lower bound for the lanes from `column` on, from the flows of the layer below.

    `below` ``[n, width]`` are those of all sources, `peak` their maxima, `sends` the sum of `line`.
    """
    total = spread(0.0)
    for j in range(len(below)):
        total = lowered(total, spread(-line[j]), load(below, j, column))
    one = spread(1.0)
    return total * least(
        one / spread(max(sends, 1e-300)), one / (load(peak, 0, column) + spread(1e-300))
    )
