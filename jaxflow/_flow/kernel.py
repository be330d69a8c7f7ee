"""Fill tables of flows, sum minimum cuts, and weigh edges: numba's entry points.

The lowest two layers have closed forms. Above them every pair gets an upper bound, the weight of
its cheapest simple cut, and a lower bound from a sweep; where the two meet, that is the flow. Of
the remaining pairs, those of three layers are retried, and the rest is searched pair by pair. In a
table of all sources, sinks that all sources of a layer bring to their bound are skipped above.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxflow._flow.layout import (
    CLOSE,
    Columns,
    Sentence,
    absorb,
    lay_out,
    lifts_at,
    new_columns,
    new_sentence,
    roll_down,
    two_steps,
)
from jaxflow._flow.parts import (
    borrow,
    entry,
    free,
    larger,
    no_blocks,
    part,
    smaller,
    zero_ints,
    zeros,
)
from jaxflow._flow.replay import solve_pair
from jaxflow._flow.retry import Pack, add, new_pack, retry
from jaxflow._flow.search import BIT, NONE, Network, new_network, reach
from jaxflow._flow.simd import LANES, at_least, least, load, spread, store
from jaxflow._flow.sweep import residual_cut, sweep_one_layer, sweep_two_layers, upper_bound

# The mask of lanes that are all done.
ALL = (1 << LANES) - 1


class Work(NamedTuple):
    """Work space of one row of the table: one layer, one source, all sinks."""

    supply: np.ndarray  # [n, LANES], for the sweeps
    demand: np.ndarray  # [n + 1, LANES]
    beyond: np.ndarray  # [n, LANES], for the cut after a sweep
    bounds: np.ndarray  # [2, LANES]: upper bounds and flows, from lanes to numbers
    lines: np.ndarray  # [L, width]: see `roll_down`
    order: np.ndarray  # [n]
    open: np.ndarray  # [n]: the sinks of a row still to be searched; the row holds their bounds
    opened: np.ndarray  # [1]: how many they are


@part
def _fill_row(
    sentence: Sentence,
    columns: Columns,
    count: int,
    work: Work,
    pack: Pack,
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
    sends, leaving = sentence.row_sums[layer, source], 0.0
    for x in range(2, layer + 1):
        leaving += sentence.row_sums[x, source] - sentence.diagonal[x, source]
    roll_down(sentence, layer, source, last, lines, order)
    work.opened[0] = 0
    for column in range(0, count, LANES):
        first = columns.sinks[column] if causal else 0
        bound = upper_bound(
            sends, leaving, columns, column,
            two_steps(edges[1, source], columns.lowest, first, last, column),
            two_steps(line, columns.highest, first, last, column),
        )  # fmt: skip
        if causal:
            bound = least(bound, load(columns.causal_bound, source, column))
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
                residual_cut(
                    line, sentence, columns.bottom, source, first, last, column,
                    work.supply, work.beyond,
                ),
            )  # fmt: skip
            done = at_least(sent, bound - spread(CLOSE))
        store(work.bounds, 0, 0, bound)
        store(work.bounds, 1, 0, sent)
        for lane in range(smaller(LANES, count - column)):
            sink = columns.sinks[column + lane]
            row[sink] = work.bounds[0, lane] if sink < last else 0.0
            if sink >= last or done >> lane & 1:
                continue
            if layer > 2:
                _leave_open(work, sink)
                continue
            add(
                pack, sentence, sink, first, last, lane, work.demand,
                work.bounds[0, lane], work.bounds[1, lane],
            )  # fmt: skip
            if pack.size[0] == LANES:
                _finish(sentence, work, pack, line, last, row)
    if pack.size[0]:
        _finish(sentence, work, pack, line, last, row)


@part
def _leave_open(work: Work, sink: int) -> None:
    work.open[work.opened[0]] = sink
    work.opened[0] += 1


@part
def _finish(
    sentence: Sentence, work: Work, pack: Pack, line: np.ndarray, last: int, row: np.ndarray
) -> None:
    """Retry the packed sinks and write their bounds to `row`; what fails stays open."""
    count = pack.size[0]
    first = pack.sinks[0] if sentence.causal[0] else 0  # they come in ascending order
    done = retry(pack, sentence, line, work.order, first, last)
    for lane in range(count):
        row[pack.sinks[lane]] = pack.bound[0, lane]
        if not done >> lane & 1:
            _leave_open(work, pack.sinks[lane])


@part
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


@entry
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

    Only for sentences `begin` to `end` and the positions `low` to `high` in `sources`, `bottom` to
    `top` in `layers`, ends excluded; other calls fill the rest. Where `sources` are all tokens and
    `layers` go up by one, the layer below `bottom` must be filled already.
    """
    depth, n = weights.shape[1], weights.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    full = sources.size == n
    memory = no_blocks()
    everyone, order = zero_ints(memory, (width,)), zero_ints(memory, (n,))
    for token in range(width):
        everyone[token] = token
        full = full and (token >= n or sources[token] == token)
    sentence = borrow(new_sentence(memory, depth, n, width))
    net = borrow(new_network(memory, depth, n, width))
    chosen = borrow(new_columns(memory, n if full else 1, width if full else LANES))
    pack = borrow(new_pack(memory, n))
    work = borrow(Work(
        zeros(memory, (n, LANES)), zeros(memory, (n + 1, LANES)), zeros(memory, (n, LANES)),
        zeros(memory, (2, LANES)), zeros(memory, (depth, width)), order,
        zero_ints(memory, (n,)), zero_ints(memory, (1,)),
    ))  # fmt: skip
    limits = low, smaller(high, sources.size), bottom, smaller(top, layers.size)
    for b in range(begin, smaller(end, len(weights))):
        _fill_sentence(
            weights[b], layers, sources, limits, full, table[b],
            sentence, net, chosen, everyone, work, pack,
        )  # fmt: skip
    free(memory)


@part
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
    pack: Pack,
) -> None:
    """Do one sentence of `fill`; `limits` are its `low`, `high`, `bottom` and `top`."""
    low, high, bottom, top = limits
    n, highest = weights.shape[1], 0
    for at in range(layers.size):
        highest = larger(highest, layers[at])
    lay_out(sentence, weights, highest)
    for at in range(bottom, top):
        layer = layers[at]
        if layer < 2:
            for place in range(low, high):
                _lowest_row(sentence, work, layer, sources[place], table[at, place])
            continue
        count, lifts = n, lifts_at(layer)
        x, edges = smaller(lifts + 2, layer), sentence.edges
        columns = borrow(Columns(
            everyone, sentence.demands[lifts], edges[x - 1], sentence.transposed[x - 1], edges[x],
            edges[0], edges[layer - 1], sentence.diagonal[x - 1 : x], sentence.column_sums[:1],
            sentence.off_diagonal[layer - 2 : layer - 1], sentence.different,
            sentence.causal_bound[layer],
        ))  # fmt: skip
        if full and at > 0 and layers[at - 1] == layer - 1:
            count = absorb(sentence, layer, table[at - 1], columns, chosen)
            columns = chosen
        for place in range(low, high):
            source, row = sources[place], table[at, place]
            if count < n:
                sends = sentence.row_sums[layer, source]
                for sink in range(n):
                    row[sink] = smaller(sentence.column_sums[0, sink], sends)
                if count == 0:
                    continue
            _fill_row(sentence, columns, count, work, pack, layer, source, row)
            if work.opened[0]:
                _search_row(sentence, net, work, layer, source, row)


@part
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
        for lane in range(smaller(LANES, n - column)):
            row[column + lane] = work.bounds[0, lane]


@part
def _reached(net: Network, layer: int, token: int) -> bool:
    return net.visited[layer, token >> 6] & (BIT << np.uint64(token & 63)) != NONE


@entry
def add_cuts(
    weights: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    pulls: np.ndarray,
    result: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Add ``pulls[b, at, place, sink]`` to `result` at the edges of the pair's minimum cut.

    This is the derivative of flow with respect to the edges: raising the capacity of an edge raises
    the flow at the rate 1 if the edge is in every minimum cut and 0 if it is in none. Where there
    are several, the cut nearest to the source gives one of the subgradients.

    `weights` and `result` are ``[B, L, n, n]``, `pulls` ``[B, L', S, n]``; only sentences from
    `begin` to before `end`. Edges of weight 0 are no edges.
    """
    depth, n = weights.shape[1], weights.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    memory = no_blocks()
    sentence = borrow(new_sentence(memory, depth, n, width))
    net = borrow(new_network(memory, depth, n, width))
    lines, order = zeros(memory, (depth, width)), zero_ints(memory, (n,))
    highest = 0
    for at in range(layers.size):
        highest = larger(highest, layers[at])
    for b in range(begin, smaller(end, len(weights))):
        lay_out(sentence, weights[b], highest)
        into = result[b]
        for at in range(layers.size):
            layer = layers[at]
            for place in range(sources.size):
                source = sources[place]
                if layer > 0:
                    roll_down(sentence, layer, source, n, lines, order)
                for sink in range(n):
                    pull = pulls[b, at, place, sink]
                    if pull == 0.0:
                        continue
                    if layer == 0:
                        if weights[b, 0, source, sink] > 0.0:
                            into[0, source, sink] += pull
                        continue
                    solve_pair(net, sentence, layer, order, sink, 0, n, lines, np.inf)
                    reach(net, layer - 1, False)
                    for key in range(n):
                        if weights[b, layer, source, key] > 0.0 and not _reached(
                            net, layer - 1, key
                        ):
                            into[layer, source, key] += pull
                        if weights[b, 0, key, sink] > 0.0 and _reached(net, 0, key):
                            into[0, key, sink] += pull
                    for x in range(1, layer):
                        for query in range(n):
                            if not _reached(net, x, query):
                                continue
                            for key in range(n):
                                if weights[b, x, query, key] > 0.0 and not _reached(
                                    net, x - 1, key
                                ):
                                    into[x, query, key] += pull
    free(memory)


@part
def _is_sound(row: np.ndarray, tolerance: float) -> bool:
    """Return whether a row is non-negative and sums to 1; NaN and infinity are neither."""
    total, below = 0.0, 0
    for key in range(len(row)):
        total += row[key]
        below += row[key] < 0
    return below == 0 and abs(total - 1.0) <= tolerance


@entry
def weigh(
    attention: np.ndarray,
    mask: np.ndarray,
    first: int,
    last: int,
    residual: float,
    tolerance: float,
    edges: np.ndarray,
) -> bool:
    """Write the weights of ``[B, L, H, n, n]`` to `edges` ``[B, L, n, n]``, and check the values.

    The same numbers, to the last bit, as `jaxflow.attention.edge_weights` in float64, in one pass
    over memory instead of several, which for a large batch cost as much as its flows.

    The heads from `first` to before `last` are averaged. `mask` is ``[B, n]``, or ``[0, n]`` where
    all tokens are real. Returns False, the edges unfinished, at a row that is not sound or holds
    anything at a padded key.
    """
    batch, depth, heads, n = attention.shape[:4]
    masked = len(mask) > 0
    for b in range(batch):
        for layer in range(depth):
            for query in range(n):
                row = edges[b, layer, query]
                for key in range(n):
                    row[key] = 0.0
                if masked and not mask[b, query]:
                    continue
                for head in range(heads):
                    weights = attention[b, layer, head, query]
                    if not _is_sound(weights, tolerance):
                        return False
                    if masked:
                        for key in range(n):
                            if not mask[b, key] and weights[key] != 0.0:
                                return False
                    if first <= head < last:
                        for key in range(n):
                            row[key] += weights[key]
                for key in range(n):
                    row[key] = (1.0 - residual) * (row[key] / (last - first))
                row[query] += residual
    return True
