"""Bounds on many flows at once, each the weight of a cut.

Statement: the flow from (layer, s) to t is at most what the row of s sends, what the column of t
takes, and the weight of two more cuts,

* ``sum_{h=2..layer} sum_{k!=s} A[h][s, k] + sum_i min(A[1][s, i], A[0][i, t])``: whatever does not
  leave the vertical line of s above layer 1 has two steps left;
* ``sum_{h=0..layer-2} sum_{k!=t} A[h][k, t] + sum_j min(A[layer][s, j], A[layer-1][j, t])``: the
  same from the other end, along the line of t.

On trained attention one of the four nearly always is the flow. With three layers one more cut is
known once a pass has been made: the nodes that have something left to send, and the source's own,
on one side. It is the flow wherever the pass has found that, but for few.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import broadcast, exceeds, least, load, lowered, raised, spread, store
from jaxflow._flow.network import LEAST
from jaxflow._flow.sentence import Sentence

__all__ = ["stuck_cut", "upper_bound"]


@bare
def upper_bound(
    sends: float,
    strays: float,
    into: np.ndarray,
    others: np.ndarray,
    column: int,
    lowest: Any,
    highest: Any,
) -> Any:
    """Return the least of the four cuts for the lanes from `column` on.

    `sends` is the sum of the source's row, `strays` what its line loses to others from layer 2 up
    to its own; `into` and `others` ``[1, width]`` are the sums of the sink's column in the lowest
    layer and, without the diagonal, in all but the highest two; `lowest` and `highest` are the
    two-step sums of the two cuts.
    """
    bound = least(spread(sends), load(into, 0, column))
    bound = least(bound, spread(strays) + lowest)
    return least(bound, load(others, 0, column) + highest)


@bare
def stuck_cut(
    row: np.ndarray,
    sentence: Sentence,
    bottom: np.ndarray,
    source: int,
    first: int,
    last: int,
    column: int,
    supply: np.ndarray,
    beyond: np.ndarray,
) -> Any:
    """Return a bound on three layers from what a pass has left, for the lanes from `column` on.

    The lighter of two cuts. In one, the nodes of layer 1 with something left, and the source's own,
    are on the source's side, and below them whatever is then cheaper to have there; in the other
    these nodes of layer 0 stay, and those of layer 1 are chosen anew. `supply` is set to 1 at nodes
    with something left, `beyond` at those of layer 0 that are on the sink's side, to 0 elsewhere.
    """
    arcs, into = sentence.edges[1], sentence.turned[1]
    cut, below = spread(0.0), spread(0.0)
    for j in range(first, last):
        stuck = exceeds(load(supply, j, 0), spread(LEAST if j != source else -1.0))
        store(supply, j, 0, stuck)
        cut = cut + lowered(spread(row[j]), stuck, spread(row[j]))
    for i in range(first, last):
        reach = spread(0.0)
        for j in range(first, last):
            reach = raised(reach, broadcast(into, i, j), load(supply, j, 0))
        wish = load(bottom, i, column)
        cut = cut + least(reach, wish)
        apart = exceeds(wish, reach)
        store(beyond, i, 0, apart)
        below = below + lowered(wish, apart, wish)
    for j in range(first, last):
        reach = spread(0.0)
        for i in range(first, last):
            reach = raised(reach, broadcast(arcs, j, i), load(beyond, i, 0))
        below = below + least(reach, spread(row[j]))
    return least(cut, below)
