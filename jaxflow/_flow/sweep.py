"""Lockstep passes: a feasible flow for many sinks at once, good enough to be the largest mostly.

Statement: whatever is sent within the capacities is a lower bound; where it meets an upper bound it
is the flow. The passes are blocking: they leave no open path of forward arcs. Two things make them
good. What the source can send straight down its own line, and what the sink takes straight from its
own, is kept apart and used first, because everything else has more ways to go. And the nodes that
have most to send go first, while there is still a choice of ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxflow._flow.columns import Columns
from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import LANES, broadcast, least, load, lowered, spread, store
from jaxflow._flow.lift import TINY
from jaxflow._flow.sentence import Sentence

__all__ = ["rank", "sweep_one_layer", "sweep_two_layers"]

# As `TINY`, for the product of two sums.
ROOT = 1e-150


@bare
def rank(values: np.ndarray, first: int, count: int, order: np.ndarray) -> None:
    """Write the places of the first `count` values: `first`, then the others, largest first."""
    order[0] = first
    for i in range(count):
        if i != first:
            at = i if i > first else i + 1
            while at > 1 and values[order[at - 1]] < values[i]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = i


@bare
def _set_apart(
    bottom: np.ndarray, sinks: np.ndarray, first: int, last: int, column: int, demand: np.ndarray
) -> Any:
    """Copy the demands of the lanes; those of the sinks' own nodes come back apart."""
    n = len(bottom)
    for i in range(first, last):
        store(demand, i, 0, load(bottom, i, column))
    store(demand, n, 0, spread(0.0))
    for lane in range(LANES):
        sink = sinks[column + lane]
        if first <= sink < last:
            demand[n, lane] = demand[sink, lane]
            demand[sink, lane] = 0.0
    return load(demand, n, 0)


@bare
def sweep_one_layer(
    row: np.ndarray,
    order: np.ndarray,
    arcs: np.ndarray,
    columns: Columns,
    first: int,
    last: int,
    column: int,
    supply: np.ndarray,
    demand: np.ndarray,
) -> Any:
    """Send `row` over one layer of arcs to the demands of the columns; return what arrives.

    The nodes in turn, in the given order, first to the sink's own node and then to the others in
    proportion to what these can take. `supply` and `demand` are left as they end.
    """
    own = _set_apart(columns.bottom, columns.sinks, first, last, column, demand)
    sent, tiny = spread(0.0), spread(TINY)
    for turn in range(last):
        j = order[turn]
        if j < first:
            continue
        out = spread(0.0)
        for i in range(first, last):
            out = out + least(load(demand, i, 0), broadcast(arcs, j, i))
        to_own = least(own, load(columns.lower, j, column))
        passed = least(spread(row[j]), out + to_own)
        store(supply, j, 0, spread(row[j]) - passed)
        to_own = least(to_own, passed)
        sent = sent + passed
        own = own - to_own
        used = (passed - to_own) / (out + tiny)
        for i in range(first, last):
            wish = load(demand, i, 0)
            store(demand, i, 0, lowered(wish, used, least(wish, broadcast(arcs, j, i))))
    return sent


@bare
def _share_out(
    line: Any, own: Any, flow_in: Any, flow_out: Any, from_line: Any, to_own: Any, keep: Any
) -> Any:
    """Settle one node: what it passes on, the two own lines after it, the used shares of the rest.

    Nothing passes in lanes where `keep` is 0.
    """
    passed = least(flow_in + from_line, flow_out + to_own) * keep
    from_line = least(from_line, passed)
    to_own = least(to_own, passed)
    # One division for both: it is what a node waits for longest.
    flow_in, flow_out = flow_in + spread(ROOT), flow_out + spread(ROOT)
    over = spread(1.0) / (flow_in * flow_out)
    used_in = (passed - from_line) * flow_out * over
    used_out = (passed - to_own) * flow_in * over
    return passed, line - from_line, own - to_own, used_in, used_out


@bare
def sweep_two_layers(
    row: np.ndarray,
    order: np.ndarray,
    sentence: Sentence,
    x: int,
    columns: Columns,
    first: int,
    last: int,
    column: int,
    supply: np.ndarray,
    demand: np.ndarray,
) -> Any:
    """Send `row` over the layers x and x - 1 to the demands of the columns; return what arrives.

    Each node k between the layers in turn passes on as much as its arcs let in and out, shared out
    in proportion among them: the source's own, which `order` must begin with, then, lane by lane,
    the sink's, then the others.
    """
    n, source = sentence.edges.shape[1], order[0]
    into, lower = sentence.turned[x], sentence.edges[x - 1]
    own = _set_apart(columns.bottom, columns.sinks, first, last, column, demand)
    for j in range(first, last):
        store(supply, j, 0, spread(row[j]))
    store(supply, source, 0, spread(0.0))
    line, sent = spread(row[source]), spread(0.0)
    for turn in range(last):
        k = order[turn]
        if k < first:
            continue
        flow_in, flow_out = spread(0.0), spread(0.0)
        for j in range(first, last):
            flow_in = flow_in + least(load(supply, j, 0), broadcast(into, k, j))
            flow_out = flow_out + least(load(demand, j, 0), broadcast(lower, k, j))
        passed, line, own, used_in, used_out = _share_out(
            line, own, flow_in, flow_out,
            least(line, broadcast(into, k, source)),
            least(own, load(columns.lower, k, column)),
            load(columns.apart, k if turn > 0 else n, column),
        )  # fmt: skip
        sent = sent + passed
        for j in range(first, last):
            have, wish = load(supply, j, 0), load(demand, j, 0)
            given, taken = least(have, broadcast(into, k, j)), least(wish, broadcast(lower, k, j))
            store(supply, j, 0, lowered(have, used_in, given))
            store(demand, j, 0, lowered(wish, used_out, taken))
        if turn > 0:
            continue
        # The sinks' own nodes: every lane looks at a row and a column of its own.
        flow_in, flow_out = spread(0.0), spread(0.0)
        for j in range(first, last):
            flow_in = flow_in + least(load(supply, j, 0), load(columns.upper, j, column))
            flow_out = flow_out + least(load(demand, j, 0), load(columns.back, j, column))
        passed, line, own, used_in, used_out = _share_out(
            line, own, flow_in, flow_out,
            least(line, load(columns.upper, source, column)),
            least(own, load(columns.straight, 0, column)),
            load(columns.apart, source, column),
        )  # fmt: skip
        sent = sent + passed
        for j in range(first, last):
            have, wish = load(supply, j, 0), load(demand, j, 0)
            given, taken = (
                least(have, load(columns.upper, j, column)),
                least(wish, load(columns.back, j, column)),
            )
            store(supply, j, 0, lowered(have, used_in, given))
            store(demand, j, 0, lowered(wish, used_out, taken))
    return sent
