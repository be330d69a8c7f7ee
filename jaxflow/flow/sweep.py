"""Lockstep passes: a feasible flow for many sinks at once, good enough to be the largest mostly.

Statement: whatever is sent within the capacities is a lower bound; where it meets an upper bound it
is the flow. The passes here are blocking: each leaves no open path of forward arcs. What the source
can send straight down its own line and what the sink takes straight from its own are kept apart
and used first, because everything else has more ways to go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from jaxflow.flow.lanes import LANES, least, load, lowered, spread, store

__all__ = ["sweep_one_layer", "sweep_two_layers"]

_TINY = 1e-300


@njit(nogil=True)
def _begin(
    row: np.ndarray,
    source: int,
    bottom: np.ndarray,
    n: int,
    column: int,
    supply: np.ndarray,
    demand: np.ndarray,
) -> Any:
    """Lay out supplies and demands; the sinks' own demands come back apart."""
    for j in range(n):
        store(supply, j, 0, spread(row[j]))
        store(demand, j, 0, load(bottom, j, column))
    store(supply, source, 0, spread(0.0))
    store(demand, n, 0, spread(0.0))
    for lane in range(min(LANES, n - column)):
        demand[n, lane] = demand[column + lane, lane]
        demand[column + lane, lane] = 0.0
    return load(demand, n, 0)


@njit(nogil=True)
def sweep_one_layer(
    row: np.ndarray,
    source: int,
    middle: np.ndarray,
    bottom: np.ndarray,
    n: int,
    column: int,
    supply: np.ndarray,
    demand: np.ndarray,
) -> Any:
    """Send `row` through one layer of arcs to the demands `bottom`; return what arrives.

    The source's line goes first, then the sink's, then the arcs by diagonals: no two arcs of a
    diagonal share an end, so they need not wait for each other.
    """
    own = _begin(row, source, bottom, n, column, supply, demand)
    line = spread(row[source])
    sent = spread(0.0)
    for i in range(n):
        wish = load(demand, i, 0)
        part = least(least(line, wish), spread(middle[source, i]))
        line = line - part
        sent = sent + part
        store(demand, i, 0, wish - part)
    for j in range(n):
        have = load(supply, j, 0)
        part = least(least(have, own), load(middle, j, column))
        own = own - part
        sent = sent + part
        store(supply, j, 0, have - part)
    sent = sent + least(least(line, own), load(middle, source, column))
    for shift in range(n):
        for j in range(n):
            i = j + shift
            if i >= n:
                i -= n
            have, wish = load(supply, j, 0), load(demand, i, 0)
            part = least(least(have, wish), spread(middle[j, i]))
            sent = sent + part
            store(supply, j, 0, have - part)
            store(demand, i, 0, wish - part)
    return sent


@njit(nogil=True)
def sweep_two_layers(
    row: np.ndarray,
    source: int,
    upper: np.ndarray,
    lower: np.ndarray,
    bottom: np.ndarray,
    n: int,
    column: int,
    supply: np.ndarray,
    demand: np.ndarray,
) -> Any:
    """Send `row` through two layers of arcs to the demands `bottom`; return what arrives.

    `upper` is transposed: ``upper[k, j]`` is the arc from j to the node k between the layers. Each
    k in turn passes on as much as its arcs let in and out, shared out in proportion among them.
    The arcs of one k are used up in the same loop that adds up those of the next.
    """
    own = _begin(row, source, bottom, n, column, supply, demand)
    line = spread(row[source])
    sent, tiny = spread(0.0), spread(_TINY)
    used_in, used_out = spread(0.0), spread(0.0)
    last = source
    for turn in range(n):
        k = source if turn == 0 else (turn - 1 if turn <= source else turn)
        flow_in, flow_out = spread(0.0), spread(0.0)
        for j in range(n):
            have = load(supply, j, 0)
            have = lowered(have, used_in, least(have, spread(upper[last, j])))
            store(supply, j, 0, have)
            flow_in = flow_in + least(have, spread(upper[k, j]))
            wish = load(demand, j, 0)
            wish = lowered(wish, used_out, least(wish, spread(lower[last, j])))
            store(demand, j, 0, wish)
            flow_out = flow_out + least(wish, spread(lower[k, j]))
        from_line = least(line, spread(upper[k, source]))
        to_own = least(own, load(lower, k, column))
        passed = least(flow_in + from_line, flow_out + to_own)
        sent = sent + passed
        from_line = least(from_line, passed)
        to_own = least(to_own, passed)
        line = line - from_line
        own = own - to_own
        used_in = (passed - from_line) / (flow_in + tiny)
        used_out = (passed - to_own) / (flow_out + tiny)
        last = k
    return sent
