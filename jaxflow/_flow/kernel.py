"""From edge weights to a table of flows: which stage answers which pair.

The lowest two layers have closed forms. Above them every pair gets an upper bound, the weight of
its cheapest simple cut, and a lower bound from a sweep; where the two meet, that is the flow. What
is left of three layers is tried again, and what is left then is searched pair by pair. In a table
of all sources, sinks that all of one layer have brought to their bound are not looked at above.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from jaxflow._flow.again import Pack, new_pack, put, try_again
from jaxflow._flow.bounds import stuck_cut, upper_bound
from jaxflow._flow.closed import two_steps
from jaxflow._flow.columns import CLOSE, Columns, absorb, all_columns, new_columns
from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import LANES, at_least, least, load, space, spread, store
from jaxflow._flow.network import Network, new_network
from jaxflow._flow.pair import roll_down, solve_pair
from jaxflow._flow.sentence import Sentence, lay_out, lifts_at, new_sentence
from jaxflow._flow.sweep import sweep_one_layer, sweep_two_layers

__all__ = ["fill"]

# The mask of lanes that are all done.
ALL = (1 << LANES) - 1


class Work(NamedTuple):
    """Work space of one row of the table: one layer, one source, all sinks.

    Attributes
    ----------
    supply, demand
        ``[n, LANES]`` and ``[n + 1, LANES]``, for the sweeps.
    beyond
        ``[n, LANES]``, for the cut after a sweep.
    bounds
        ``[2, LANES]``: upper bounds and flows on their way from lanes to numbers.
    lines, order
        ``[L, width]``, ``[n]``: see `roll_down`.
    open, opened
        ``[n]``, ``[1]``: the sinks of a row that are still to be searched and how many they are;
        ``row`` holds their bounds.
    pack
        Sinks to be tried again.
    """

    supply: np.ndarray
    demand: np.ndarray
    beyond: np.ndarray
    bounds: np.ndarray
    lines: np.ndarray
    order: np.ndarray
    open: np.ndarray
    opened: np.ndarray
    pack: Pack


@bare
def _fill_row(
    sentence: Sentence,
    columns: Columns,
    count: int,
    work: Work,
    layer: int,
    source: int,
    row: np.ndarray,
) -> None:
    """Write the flows from one token of `layer`, 2 or higher, to `row`, as far as bounds meet.

    Only for the first `count` of the `columns`.
    """
    edges, lines, order = sentence.edges, work.lines, work.order
    n = edges.shape[1]
    line = edges[layer, source]
    lifts = lifts_at(layer)
    causal = sentence.causal[0]
    last = source + 1 if causal else n
    sends, strays = sentence.out[layer, source], 0.0
    for x in range(2, layer + 1):
        strays += sentence.out[x, source] - sentence.straight[x, source]
    roll_down(sentence, layer, source, last, lines, order)
    work.opened[0] = 0
    for column in range(0, count, LANES):
        first = columns.sinks[column] if causal else 0
        bound = upper_bound(
            sends, strays, columns.into, columns.strays, column,
            two_steps(edges[1, source], columns.lowest, first, last, column),
            two_steps(line, columns.highest, first, last, column),
        )  # fmt: skip
        if causal:
            bound = least(bound, load(columns.ways, source, column))
        if layer == 2:
            sent = sweep_one_layer(
                line, order, edges[1], columns, first, last, column, work.supply, work.demand
            )
        else:
            sent = sweep_two_layers(
                lines[lifts + 2], order, sentence, lifts + 2, columns,
                first, last, column, work.supply, work.demand,
            )  # fmt: skip
        done = at_least(sent, bound - spread(CLOSE))
        if layer == 2 and done != ALL:
            bound = least(
                bound,
                stuck_cut(
                    line, sentence, columns.bottom, source, first, last, column,
                    work.supply, work.beyond,
                ),
            )  # fmt: skip
            done = at_least(sent, bound - spread(CLOSE))
        store(work.bounds, 0, 0, bound)
        store(work.bounds, 1, 0, sent)
        for lane in range(min(LANES, count - column)):
            sink = columns.sinks[column + lane]
            row[sink] = work.bounds[0, lane] if sink < last else 0.0
            if sink >= last or done >> lane & 1:
                continue
            if layer > 2:
                _leave_open(work, sink)
                continue
            put(
                work.pack, sentence, sink, first, last, lane, work.demand,
                work.bounds[0, lane], work.bounds[1, lane],
            )  # fmt: skip
            if work.pack.size[0] == LANES:
                _finish(sentence, work, line, last, row)
    if work.pack.size[0]:
        _finish(sentence, work, line, last, row)


@bare
def _leave_open(work: Work, sink: int) -> None:
    work.open[work.opened[0]] = sink
    work.opened[0] += 1


@bare
def _finish(sentence: Sentence, work: Work, line: np.ndarray, last: int, row: np.ndarray) -> None:
    """Try the packed sinks again and write their bounds to `row`; what fails stays open."""
    pack, count = work.pack, work.pack.size[0]
    first = pack.sinks[0] if sentence.causal[0] else 0  # they come in ascending order
    done = try_again(pack, sentence, line, work.order, first, last)
    for lane in range(count):
        row[pack.sinks[lane]] = pack.bound[0, lane]
        if not done >> lane & 1:
            _leave_open(work, pack.sinks[lane])


@bare
def _search_row(
    sentence: Sentence, net: Network, work: Work, layer: int, source: int, row: np.ndarray
) -> None:
    """Replace the bounds in `row` by flows for the sinks that are open."""
    causal = sentence.causal[0]
    last = source + 1 if causal else len(row)
    for i in range(work.opened[0]):
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
    full = sources.size == n and (sources == np.arange(n)).all()
    sentence, net = new_sentence(depth, n, width), new_network(depth, n, width)
    chosen, everyone = new_columns(n if full else 1, width if full else LANES), np.arange(width)
    work = Work(
        space((n, LANES)), space((n + 1, LANES)), space((n, LANES)), space((2, LANES)),
        space((depth, width)), np.empty(n, np.int64), np.empty(n, np.int64),
        np.zeros(1, np.int64), new_pack(n),
    )  # fmt: skip
    limits = low, min(high, sources.size), bottom, min(top, layers.size)
    for b in range(begin, min(end, len(weights))):
        _fill_sentence(
            weights[b], layers, sources, limits, full, table[b],
            sentence, net, chosen, everyone, work,
        )  # fmt: skip


@bare
def _fill_sentence(
    weights: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    limits: tuple[int, int, int, int],
    full: bool,
    table: np.ndarray,
    sentence: Sentence,
    net: Network,
    chosen: Columns,
    everyone: np.ndarray,
    work: Work,
) -> None:
    """Do one sentence of `fill`; `limits` are its `low`, `high`, `bottom` and `top`."""
    low, high, bottom, top = limits
    n, highest = weights.shape[1], 0
    for at in range(layers.size):
        highest = max(highest, layers[at])
    lay_out(sentence, weights, highest)
    for at in range(bottom, top):
        layer = layers[at]
        if layer < 2:
            for place in range(low, high):
                _lowest_row(sentence, work, layer, sources[place], table[at, place])
            continue
        columns, count = all_columns(sentence, layer, everyone), n
        if full and at > 0 and layers[at - 1] == layer - 1:
            count = absorb(sentence, layer, table[at - 1], columns, chosen)
            columns = chosen
        for place in range(low, high):
            source, row = sources[place], table[at, place]
            if count < n:
                sends = sentence.out[layer, source]
                for sink in range(n):
                    row[sink] = min(sentence.into[0, sink], sends)
                if count == 0:
                    continue
            _fill_row(sentence, columns, count, work, layer, source, row)
            if work.opened[0]:
                _search_row(sentence, net, work, layer, source, row)


@bare
def _lowest_row(sentence: Sentence, work: Work, layer: int, source: int, row: np.ndarray) -> None:
    """Write the flows from one token of layer 0 or 1 to `row`."""
    n, edges = len(row), sentence.edges
    if layer == 0:
        for sink in range(n):
            row[sink] = edges[0, source, sink]
        return
    for column in range(0, n, LANES):
        flows = two_steps(edges[1, source], edges[0], 0, n, column)
        store(work.bounds, 0, 0, flows)
        for lane in range(min(LANES, n - column)):
            row[column + lane] = work.bounds[0, lane]
