"""Upper bounds on many flows at once, each of them the weight of a cut.

Statement: the flow from (layer, s) to t is at most what the row of s sends, what the column of t
takes, and the weight of two more cuts,

* ``sum_{h=2..layer} sum_{k!=s} A[h][s, k] + sum_i min(A[1][s, i], A[0][i, t])``: whatever does not
  leave the vertical line of s above layer 1 has two steps left;
* ``sum_{h=0..layer-2} sum_{k!=t} A[h][k, t] + sum_j min(A[layer][s, j], A[layer-1][j, t])``: the
  same from the other end, along the line of t.

On trained attention one of the four nearly always is the flow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from jaxflow.flow.lanes import least, load, spread

__all__ = ["upper_bound"]


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
