"""Lifted demands: the lowest layers folded into one, once for all sources and layers.

Statement: if every node k of a layer can send ``E[k]`` to the sink, all at the same time, then a
flow that brings at most ``E[k]`` to each k goes on to the sink as a whole. And what a source's mass
becomes when it is rolled out downwards fits every arc on its way. Deep graphs are so cut down to
two layers between a rolled out supply and a lifted demand.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["lifted", "rolled"]


@njit(nogil=True)
def lifted(layer: np.ndarray, demand: np.ndarray, n: int) -> np.ndarray:
    """Return what each node above `layer` can send to each sink, given demands below it.

    `demand` ``[n, width]`` holds one sink a column. Each node i shares its demand out among the
    arcs into it, in proportion to them; the sink's own node t takes from others before its own
    line, since a straight way down is what the others lack.
    """
    width = demand.shape[1]
    result = np.zeros_like(demand)
    into = np.zeros(width)
    for k in range(n):
        into += layer[k]
    share = np.zeros_like(demand)
    for i in range(n):
        total = into[i]
        if total > 0.0:
            for t in range(n):
                share[i, t] = min(demand[i, t], total) / total
    own = np.zeros(width)
    for t in range(n):
        others = into[t] - layer[t, t]
        share[t, t] = min(1.0, demand[t, t] / others) if others > 0.0 else 0.0
        own[t] = min(max(demand[t, t] - share[t, t] * others, 0.0), layer[t, t])
    for k in range(n):
        for i in range(n):
            weight = layer[k, i]
            for t in range(width):
                result[k, t] += weight * share[i, t]
        result[k, k] += own[k] - layer[k, k] * share[k, k]
    return result


@njit(nogil=True)
def rolled(row: np.ndarray, layer: np.ndarray, n: int) -> np.ndarray:
    """Return where the mass `row` comes to lie one layer further down."""
    result = np.zeros_like(row)
    for j in range(n):
        for k in range(layer.shape[1]):
            result[k] += row[j] * layer[j, k]
    return result
