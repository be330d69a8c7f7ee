"""From edge weights to a table of flows: which stage answers which pair."""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxflow.flow.bits import BIT, NONE, open_arcs
from jaxflow.flow.bounds import column_sums, upper_bound
from jaxflow.flow.closed import two_steps
from jaxflow.flow.lanes import LANES, at_least, least, load, spread, store
from jaxflow.flow.lift import lifted, rolled
from jaxflow.flow.search import LEAST, max_flow, new_residual, reach
from jaxflow.flow.sweep import sweep_one_layer, sweep_two_layers

__all__ = ["fill", "reached_by_source"]

# A flow this close to an upper bound is taken for the bound.
CLOSE = 1e-12

@njit(nogil=True, cache=True)
def fill(
    edges: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    table: np.ndarray,
    first: int,
    last: int,
    low: int,
    high: int,
) -> None:
    """Write flows on `edges` ``[B, L, n, n]`` to `table` ``[B, L', S, n]``.

    Only for sentences `first` to `last` and places `low` to `high` in `sources`, ends excluded;
    the rest of the table is someone else's.
    """
    depth, n = edges.shape[1], edges.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    state = new_residual(depth, n)
    ticket = 0
    wide = np.zeros((depth, n, width))
    turned = np.zeros((depth, n, n))
    supply, demand = np.empty((n, LANES)), np.empty((n + 1, LANES))
    two = np.zeros((1, width))
    sent_ = np.zeros((2, LANES))
    close = spread(CLOSE)
    for b in range(first, min(last, len(edges))):
        weights = edges[b]
        wide[:, :, :n] = weights
        for layer in range(2, depth):
            for j in range(n):
                for k in range(n):
                    turned[layer, k, j] = weights[layer, j, k]
        arcs = open_arcs(weights, LEAST)
        into, others = column_sums(wide, n)
        once = lifted(wide[1], wide[0], n) if depth > 4 else wide[0]
        twice = lifted(wide[2], once, n) if depth > 6 else wide[0]
        for row in range(low, min(high, sources.size)):
            source = sources[row]
            for column in range(0, width, LANES):
                store(two, 0, column, two_steps(wide[1, source] if depth > 1 else wide[0, source], wide[0], n, column))
            for at in range(layers.size):
                layer = layers[at]
                if layer == 0:
                    table[b, at, row] = weights[0, source]
                    continue
                if layer == 1:
                    table[b, at, row] = two[0, :n]
                    continue
                sends = weights[layer, source].sum()
                strays = 0.0
                for h in range(2, layer + 1):
                    strays += weights[h, source].sum() - weights[h, source, source]
                lifts = 0 if layer <= 3 else (1 if layer <= 5 else 2)
                line = weights[layer, source]
                if layer > 3:
                    for h in range(layer - 1, lifts + 2, -1):
                        line = rolled(line, weights[h], n)
                for column in range(0, width, LANES):
                    best = two_steps(weights[layer, source], wide[layer - 1], n, column)
                    bound = upper_bound(sends, strays, into, others, layer, column, load(two, 0, column), best)
                    if layer == 2:
                        sent = sweep_one_layer(weights[2, source], source, wide[1], wide[0], n, column, supply, demand)
                    else:
                        sent = sweep_two_layers(line, source, turned[lifts + 2], wide[lifts + 1], wide[0] if lifts == 0 else (once if lifts == 1 else twice), n, column, supply, demand)
                    done = at_least(sent, bound - close)
                    store(sent_, 0, 0, bound)
                    for lane in range(min(LANES, n - column)):
                        sink = column + lane
                        if done >> lane & 1:
                            table[b, at, row, sink] = sent_[0, lane]
                            continue
                        state.supply[:] = weights[layer, source]
                        state.demand[:] = weights[0, :, sink]
                        ticket += 1
                        table[b, at, row, sink] = max_flow(
                            weights, arcs, layer - 1, sent_[0, lane] - CLOSE, state, ticket
                        )


@njit(nogil=True, cache=True)
def reached_by_source(
    edges: np.ndarray, layer: int, source: int, sink: int
) -> tuple[float, np.ndarray]:
    """Return one pair's flow and the nodes ``[layer, n]`` its source still reaches after it."""
    n = edges.shape[-1]
    reached = np.zeros((layer, n), np.bool_)
    if layer == 0:
        return edges[0, source, sink], reached
    state = new_residual(layer, n)
    arcs = open_arcs(edges[:layer], LEAST)
    state.supply[:] = edges[layer, source]
    state.demand[:] = edges[0, :, sink]
    value = max_flow(edges, arcs, layer - 1, np.inf, state, 1)
    visited = reach(edges, arcs, layer - 1, state, 1)
    for level in range(layer):
        for token in range(n):
            bit = BIT << np.uint64(token & 63)
            reached[level, token] = visited[level, token >> 6] & bit != NONE
    return value, reached
