"""Send flow to many sinks in lockstep, and bound what can arrive by the weights of cuts.

Whatever is sent within the capacities is a lower bound; where it meets an upper bound it is the
flow. The passes compute blocking flows: no open path of forward arcs remains. Two rules bring them
close to the maximum. Flow along the vertical line of the source's own token, and along that of the
sink's, is counted separately and used first, because all other flow has more paths. And nodes with
the largest supply are processed first, while most paths are open.

The flow from (layer, s) to t is at most what the row of s sends, what the column of t takes, and
the weights of two more cuts,

* ``sum_{h=2..layer} sum_{k!=s} A[h][s, k] + sum_i min(A[1][s, i], A[0][i, t])``: whatever does not
  leave the vertical line of s above layer 1 has two steps left;
* ``sum_{h=0..layer-2} sum_{k!=t} A[h][k, t] + sum_j min(A[layer][s, j], A[layer-1][j, t])``: the
  same from the other end, along the line of t.

On trained attention one of the four nearly always is the flow. With three layers one more cut is
known after a pass: the nodes with residual supply, and the source's own, on one side.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow.layout import TINY, Columns, Sentence
from jaxflow._flow.parts import part
from jaxflow._flow.simd import (
    LANES,
    Lanes,
    broadcast,
    exceeds,
    least,
    load,
    lowered,
    raised,
    spread,
    store,
)

# An arc with less free capacity than this counts as full. Rounding leaves some 1e-16 on full arcs;
# the arcs of a cut, at most 16,000 a layer at n = 128, cannot hide more than 2e-11 a layer.
LEAST = 1e-15
# As `TINY`, for the product of two sums.
ROOT = 1e-150


@part
def upper_bound(
    sends: float,
    leaving: float,
    columns: Columns,
    column: int,
    lowest: Lanes,
    highest: Lanes,
) -> Lanes:
    """Return the least of the four cuts for the lanes from `column` on.

    `sends` is the sum of the source's row, `leaving` what leaves its line in the layers from 2 up
    to its own; `lowest` and `highest` are the two-step sums of the two cuts.
    """
    bound = least(spread(sends), load(columns.column_sums, 0, column))
    bound = least(bound, spread(leaving) + lowest)
    return least(bound, load(columns.off_diagonal, 0, column) + highest)


@part
def residual_cut(
    row: np.ndarray,
    sentence: Sentence,
    bottom: np.ndarray,
    source: int,
    first: int,
    last: int,
    column: int,
    supply: np.ndarray,
    beyond: np.ndarray,
) -> Lanes:
    """Return a bound on three layers from what a pass has left, for the lanes from `column` on.

    The lighter of two cuts. In one, the nodes of layer 1 with residual supply, and the source's
    own, are on the source's side, and each node of layer 0 on the cheaper one; in the other these
    nodes of layer 0 stay, and those of layer 1 are chosen anew. `supply` is set to 1 at nodes with
    residual supply, `beyond` at those of layer 0 on the sink's side, to 0 elsewhere.
    """
    arcs, transposed = sentence.edges[1], sentence.transposed[1]
    cut, below = spread(0.0), spread(0.0)
    for j in range(first, last):
        residual = exceeds(load(supply, j, 0), spread(LEAST if j != source else -1.0))
        store(supply, j, 0, residual)
        cut = cut + lowered(spread(row[j]), residual, spread(row[j]))
    for i in range(first, last):
        reach = spread(0.0)
        for j in range(first, last):
            reach = raised(reach, broadcast(transposed, i, j), load(supply, j, 0))
        wanted = load(bottom, i, column)
        cut = cut + least(reach, wanted)
        sink_side = exceeds(wanted, reach)
        store(beyond, i, 0, sink_side)
        below = below + lowered(wanted, sink_side, wanted)
    for j in range(first, last):
        reach = spread(0.0)
        for i in range(first, last):
            reach = raised(reach, broadcast(arcs, j, i), load(beyond, i, 0))
        below = below + least(reach, spread(row[j]))
    return least(cut, below)


@part
def _demand_of(
    bottom: np.ndarray, sinks: np.ndarray, first: int, last: int, column: int, demand: np.ndarray
) -> Lanes:
    """Copy the demands of the lanes but those of the sinks' own nodes, which are returned."""
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


@part
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
) -> Lanes:
    """Send `row` over one layer of arcs to the demands of the columns; return what arrives.

    The nodes in the given order, first to the sink's own node and then to the others in
    proportion to what these can take. `supply` and `demand` are left as they end.
    """
    own = _demand_of(columns.bottom, columns.sinks, first, last, column, demand)
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
            wanted = load(demand, i, 0)
            store(demand, i, 0, lowered(wanted, used, least(wanted, broadcast(arcs, j, i))))
    return sent


@part
def _pass_on(
    line: Lanes,
    own: Lanes,
    flow_in: Lanes,
    flow_out: Lanes,
    from_line: Lanes,
    to_own: Lanes,
    keep: Lanes,
) -> tuple[Lanes, ...]:
    """Return what one node passes on, the two own lines after it, the used shares of the rest.

    Nothing passes in lanes where `keep` is 0.
    """
    passed = least(flow_in + from_line, flow_out + to_own) * keep
    from_line = least(from_line, passed)
    to_own = least(to_own, passed)
    # One division for both: it has the longest latency.
    flow_in, flow_out = flow_in + spread(ROOT), flow_out + spread(ROOT)
    over = spread(1.0) / (flow_in * flow_out)
    used_in = (passed - from_line) * flow_out * over
    used_out = (passed - to_own) * flow_in * over
    return passed, line - from_line, own - to_own, used_in, used_out


@part
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
) -> Lanes:
    """Send `row` over the layers x and x - 1 to the demands of the columns; return what arrives.

    Each node k between the layers in turn passes on as much as its arcs let in and out, divided
    in proportion among them: the source's own, which `order` must begin with, then, lane by lane,
    the sink's, then the others.
    """
    n, source = sentence.edges.shape[1], order[0]
    transposed, lower = sentence.transposed[x], sentence.edges[x - 1]
    upper, back, different = columns.upper, columns.back, columns.different
    own = _demand_of(columns.bottom, columns.sinks, first, last, column, demand)
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
            flow_in = flow_in + least(load(supply, j, 0), broadcast(transposed, k, j))
            flow_out = flow_out + least(load(demand, j, 0), broadcast(lower, k, j))
        passed, line, own, used_in, used_out = _pass_on(
            line, own, flow_in, flow_out,
            least(line, broadcast(transposed, k, source)),
            least(own, load(columns.lower, k, column)),
            load(different, k if turn > 0 else n, column),
        )  # fmt: skip
        sent = sent + passed
        for j in range(first, last):
            have, wanted = load(supply, j, 0), load(demand, j, 0)
            given, taken = (
                least(have, broadcast(transposed, k, j)),
                least(wanted, broadcast(lower, k, j)),
            )
            store(supply, j, 0, lowered(have, used_in, given))
            store(demand, j, 0, lowered(wanted, used_out, taken))
        if turn > 0:
            continue
        # The sinks' own nodes: every lane reads a row and a column of its own.
        flow_in, flow_out = spread(0.0), spread(0.0)
        for j in range(first, last):
            flow_in = flow_in + least(load(supply, j, 0), load(upper, j, column))
            flow_out = flow_out + least(load(demand, j, 0), load(back, j, column))
        passed, line, own, used_in, used_out = _pass_on(
            line, own, flow_in, flow_out,
            least(line, load(upper, source, column)),
            least(own, load(columns.diagonal, 0, column)),
            load(different, source, column),
        )  # fmt: skip
        sent = sent + passed
        for j in range(first, last):
            have, wanted = load(supply, j, 0), load(demand, j, 0)
            given = least(have, load(upper, j, column))
            taken = least(wanted, load(back, j, column))
            store(supply, j, 0, lowered(have, used_in, given))
            store(demand, j, 0, lowered(wanted, used_out, taken))
    return sent
