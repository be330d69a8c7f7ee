"""From edge weights to a table of flows: which stage answers which pair.

The lowest two layers have closed forms. Above them every pair gets an upper bound, the weight of
its cheapest simple cut, and a lower bound: from the layer below it, where that is known for all
sources, else from a sweep. Where the two meet, that is the flow; the pairs where they do not are
searched one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from jaxflow.flow.bounds import inherited, upper_bound
from jaxflow.flow.closed import two_steps
from jaxflow.flow.lanes import LANES, at_least, least, load, spread, store
from jaxflow.flow.network import Network, new_network
from jaxflow.flow.pair import roll_down, solve_pair
from jaxflow.flow.sentence import Sentence, lay_out, lifts_at, new_sentence
from jaxflow.flow.sweep import sweep_one_layer, sweep_two_layers

__all__ = ["fill"]

# A flow this close to an upper bound is taken for the bound.
CLOSE = 1e-12

# The mask of lanes that are all done.
ALL = (1 << LANES) - 1


class Work(NamedTuple):
    """Work space of one row of the table: one layer, one source, all sinks.

    Attributes
    ----------
    supply, demand
        ``[n, LANES]`` and ``[n + 1, LANES]``, for the sweeps.
    bounds
        ``[1, LANES]``: upper bounds on their way from lanes to numbers.
    lines, order
        ``[L, width]``, ``[n]``: see `roll_down`.
    open
        ``[n]``: the sinks of a row that are still to be searched; ``row`` holds their bounds.
    below, peak
        ``[n, width]``, ``[1, width]``: the table one layer down for all sources, and its maxima.
    """

    supply: np.ndarray
    demand: np.ndarray
    bounds: np.ndarray
    lines: np.ndarray
    order: np.ndarray
    open: np.ndarray
    below: np.ndarray
    peak: np.ndarray


@njit(nogil=True)
def _fill_row(
    sentence: Sentence,
    work: Work,
    layer: int,
    source: int,
    known: bool,
    row: np.ndarray,
) -> int:
    """Write the flows from one token of `layer`, 2 or higher, to `row`, as far as bounds meet.

    `known` says whether the flows of the layer below are there. Returns how many sinks are left.
    """
    edges, lines, order = sentence.edges, work.lines, work.order
    n, width = edges.shape[1:]
    line = edges[layer, source]
    lifts = lifts_at(layer)
    causal = sentence.causal[0]
    last = source + 1 if causal else n
    sends = line.sum()
    strays = 0.0
    for x in range(2, layer + 1):
        strays += edges[x, source].sum() - edges[x, source, source]
    ready, count = False, 0
    for column in range(0, width, LANES):
        first = column if causal else 0
        bound = upper_bound(
            sends, strays, sentence.into, sentence.strays, layer, column,
            two_steps(edges[1, source], edges[0], first, last, column),
            two_steps(line, edges[layer - 1], first, last, column),
        )  # fmt: skip
        if causal:
            bound = least(bound, load(sentence.ways[layer], source, column))
        enough = bound - spread(CLOSE)
        done = 0
        if known:
            done = at_least(inherited(line, sends, work.below, work.peak, column), enough)
        if done != ALL:
            if not ready:
                roll_down(sentence, layer, source, last, lines, order)
                ready = True
            if layer == 2:
                sent = sweep_one_layer(
                    line, order, edges[1], edges[0], first, last, column, work.demand
                )
            else:
                sent = sweep_two_layers(
                    lines[lifts + 2], order, sentence, lifts + 2, sentence.demands[lifts],
                    first, last, column, work.supply, work.demand,
                )  # fmt: skip
            done |= at_least(sent, enough)
        store(work.bounds, 0, 0, bound)
        for lane in range(min(LANES, n - column)):
            sink = column + lane
            if sink >= last:
                row[sink] = 0.0
            else:
                row[sink] = work.bounds[0, lane]
                if not done >> lane & 1:
                    work.open[count] = sink
                    count += 1
    return count


@njit(nogil=True)
def _search_row(
    sentence: Sentence,
    net: Network,
    work: Work,
    layer: int,
    source: int,
    count: int,
    row: np.ndarray,
) -> None:
    """Replace the bounds in `row` by flows for the first `count` sinks of ``work.open``."""
    causal = sentence.causal[0]
    last = source + 1 if causal else len(row)
    for i in range(count):
        sink = work.open[i]
        row[sink] = solve_pair(
            net, sentence, layer, work.order, sink, sink if causal else 0, last,
            work.lines, row[sink] - CLOSE,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def fill(
    weights: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    table: np.ndarray,
    begin: int,
    end: int,
    low: int,
    high: int,
    bottom: int,
    top: int,
) -> None:
    """Write flows on `weights` ``[B, L, n, n]`` to `table` ``[B, L', S, n]``.

    Only for sentences `begin` to `end` and the places `low` to `high` in `sources`, `bottom` to
    `top` in `layers`, ends excluded; the rest of the table is someone else's. Where `sources` are
    all tokens and `layers` go up by one, the layer below `bottom` must be there already.
    """
    depth, n = weights.shape[1], weights.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    sentence, net, searched = new_sentence(depth, n, width), new_network(1, 1, LANES), False
    work = Work(
        np.empty((n, LANES)), np.empty((n + 1, LANES)), np.empty((1, LANES)),
        np.zeros((depth, width)), np.empty(n, np.int64), np.empty(n, np.int64),
        np.zeros((n, width)), np.zeros((1, width)),
    )  # fmt: skip
    full = sources.size == n and (sources == np.arange(n)).all()
    edges = sentence.edges
    for b in range(begin, min(end, len(weights))):
        lay_out(sentence, weights[b], layers.max())
        for at in range(bottom, min(top, layers.size)):
            layer = layers[at]
            known = full and at > 0 and layers[at - 1] == layer - 1
            if known and layer > 1:
                work.below[:, :n] = table[b, at - 1]
                for sink in range(n):
                    work.peak[0, sink] = work.below[:, sink].max()
            for place in range(low, min(high, sources.size)):
                source = sources[place]
                row = table[b, at, place]
                if layer == 0:
                    row[:] = weights[b, 0, source]
                elif layer == 1:
                    for column in range(0, width, LANES):
                        flows = two_steps(edges[1, source], edges[0], 0, n, column)
                        store(work.bounds, 0, 0, flows)
                        for lane in range(min(LANES, n - column)):
                            row[column + lane] = work.bounds[0, lane]
                else:
                    count = _fill_row(sentence, work, layer, source, known, row)
                    if count:
                        if not searched:
                            net, searched = new_network(depth, n, width), True
                        _search_row(sentence, net, work, layer, source, count, row)
