"""Lifted demands: the lowest layers folded into one, once for all sources and layers.

Statement: if every node k of a layer can send ``E[k]`` to the sink, all at the same time, then a
flow that brings at most ``E[k]`` to each k goes on to the sink as a whole. And what a source's mass
becomes when it is rolled out downwards fits every arc on its way, as long as no token passes on
more than it got, which a row whose sum is a little above 1, as in float32, would do. Deep graphs
are so cut down to two layers between a rolled out supply and a lifted demand.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxflow.flow.lanes import LANES, load, lowered, spread, store

__all__ = ["lifted", "passed_on", "rolled"]


@njit(nogil=True)
def lifted(
    layer: np.ndarray, into: np.ndarray, demand: np.ndarray, n: int, result: np.ndarray
) -> None:
    """Write what each node above `layer` can send to each sink, given the demands below it.

    `into` holds the column sums of `layer`; `demand` and `result` ``[n, width]`` one sink a
    column. Each node i shares its demand out among the arcs into it, in proportion to them; the
    sink's own node t takes from others before its own line, since a straight way down is what the
    others lack.
    """
    share = np.zeros_like(demand)
    for i in range(n):
        if into[i] > 0.0:
            for t in range(n):
                share[i, t] = min(demand[i, t], into[i]) / into[i]
    own = np.zeros(n)
    for t in range(n):
        others = into[t] - layer[t, t]
        share[t, t] = min(1.0, demand[t, t] / others) if others > 0.0 else 0.0
        own[t] = min(max(demand[t, t] - share[t, t] * others, 0.0), layer[t, t])
    for k in range(n):
        for column in range(0, layer.shape[1], LANES):
            total = spread(0.0)
            for i in range(n):
                total = lowered(total, spread(-layer[k, i]), load(share, i, column))
            store(result, k, column, total)
    for t in range(n):
        result[t, t] += own[t] - layer[t, t] * share[t, t]


@njit(nogil=True)
def passed_on(mass: float, out: float) -> float:
    """Return the share of a token's arcs that its mass fills, `out` being what they carry."""
    return 1.0 if mass >= out else mass / out


@njit(nogil=True)
def rolled(line: np.ndarray, layer: np.ndarray, out: np.ndarray, result: np.ndarray) -> None:
    """Write where the mass `line` comes to lie one layer further down; `out` holds row sums."""
    result[:] = 0.0
    for j in range(len(layer)):
        share = passed_on(line[j], out[j])
        for k in range(layer.shape[1]):
            result[k] += share * layer[j, k]
