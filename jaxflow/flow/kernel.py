"""From edge weights to a table of flows: which stage answers which pair."""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxflow.flow.bits import BIT, NONE
from jaxflow.flow.bounds import upper_bound
from jaxflow.flow.closed import two_steps
from jaxflow.flow.lanes import LANES, at_least, load, spread, store
from jaxflow.flow.lift import rolled
from jaxflow.flow.network import new_network
from jaxflow.flow.pair import solve_pair
from jaxflow.flow.search import reach
from jaxflow.flow.sentence import lay_out, lifts_at, new_sentence
from jaxflow.flow.sweep import rank, sweep_one_layer, sweep_two_layers

__all__ = ["fill", "reached_by_source"]

# A flow this close to an upper bound is taken for the bound.
CLOSE = 1e-12


@njit(nogil=True)
def _roll_down(
    edges: np.ndarray, layer: int, source: int, lines: np.ndarray, order: np.ndarray
) -> None:
    """Write the source's mass at the nodes of each layer below it, as far as it is needed.

    And the order in which the nodes that the sweep goes through are to be visited.
    """
    lines[layer - 1] = edges[layer, source]
    low = 0 if layer < 3 else lifts_at(layer) + 1
    for x in range(layer - 1, low, -1):
        rolled(lines[x], edges[x], lines[x - 1])
    rank(lines[low if layer > 2 else layer - 1], source, order)


@njit(nogil=True, cache=True)
def fill(
    weights: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    table: np.ndarray,
    first: int,
    last: int,
    low: int,
    high: int,
) -> None:
    """Write flows on `weights` ``[B, L, n, n]`` to `table` ``[B, L', S, n]``.

    Only for sentences `first` to `last` and places `low` to `high` in `sources`, ends excluded;
    the rest of the table is someone else's.
    """
    depth, n = weights.shape[1], weights.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    sentence, net = new_sentence(depth, n, width), new_network(depth, n, width)
    supply, demand = np.empty((n, LANES)), np.empty((n + 1, LANES))
    two, lines, bounds = np.zeros((1, width)), np.zeros((depth, width)), np.zeros((1, LANES))
    edges, order = sentence.edges, np.empty(n, np.int64)
    for b in range(first, min(last, len(weights))):
        lay_out(sentence, weights[b], layers.max())
        for row in range(low, min(high, sources.size)):
            source = sources[row]
            if depth > 1:
                for column in range(0, width, LANES):
                    store(two, 0, column, two_steps(edges[1, source], edges[0], n, column))
            for at in range(layers.size):
                layer = layers[at]
                if layer == 0:
                    table[b, at, row] = weights[b, 0, source]
                    continue
                if layer == 1:
                    table[b, at, row] = two[0, :n]
                    continue
                line = edges[layer, source]
                sends = line.sum()
                strays = 0.0
                for h in range(2, layer + 1):
                    strays += edges[h, source].sum() - edges[h, source, source]
                _roll_down(edges, layer, source, lines, order)
                lifts = lifts_at(layer)
                for column in range(0, width, LANES):
                    bound = upper_bound(
                        sends, strays, sentence.into, sentence.strays, layer, column,
                        load(two, 0, column), two_steps(line, edges[layer - 1], n, column),
                    )  # fmt: skip
                    if layer == 2:
                        sent = sweep_one_layer(line, order, edges[1], edges[0], n, column, demand)
                    else:
                        sent = sweep_two_layers(
                            lines[lifts + 2], order, sentence, lifts + 2, sentence.demands[lifts],
                            column, supply, demand,
                        )  # fmt: skip
                    done = at_least(sent, bound - spread(CLOSE))
                    store(bounds, 0, 0, bound)
                    for lane in range(min(LANES, n - column)):
                        sink = column + lane
                        if done >> lane & 1:
                            table[b, at, row, sink] = bounds[0, lane]
                        else:
                            table[b, at, row, sink] = solve_pair(
                                net, sentence, layer, order, sink, lines,
                                bounds[0, lane] - CLOSE,
                            )  # fmt: skip


@njit(nogil=True, cache=True)
def reached_by_source(
    weights: np.ndarray, layer: int, source: int, sink: int
) -> tuple[float, np.ndarray]:
    """Return one pair's flow and the nodes ``[layer, n]`` its source still reaches after it."""
    n = weights.shape[1]
    reached = np.zeros((layer, n), np.bool_)
    if layer == 0:
        return weights[0, source, sink], reached
    width = (n + LANES - 1) // LANES * LANES
    sentence, net = new_sentence(layer + 1, n, width), new_network(layer, n, width)
    lines = np.zeros((layer, width))
    lay_out(sentence, weights, layer)
    order = np.empty(n, np.int64)
    _roll_down(sentence.edges, layer, source, lines, order)
    value = solve_pair(
        net, sentence, layer, order, sink, lines, np.inf
    )
    reach(net, layer - 1, False)
    for x in range(layer):
        for token in range(n):
            bit = BIT << np.uint64(token & 63)
            reached[x, token] = net.visited[x, token >> 6] & bit != NONE
    return value, reached
