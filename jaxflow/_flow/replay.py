"""Solve one pair to the end: repeat the lockstep passes arc by arc, then search what is left.

The passes leave a feasible flow that lacks little of the largest one, so the search that follows
has a few paths left to find instead of hundreds. A single sink does not fill the lanes; here the
lanes are the nodes at the other end of a node's arcs.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow.layout import TINY, Sentence, lifts_at, passed_on
from jaxflow._flow.parts import larger, part, smaller
from jaxflow._flow.search import Network, augment, open_masks
from jaxflow._flow.simd import LANES, least, load, lowered, raised, spread, store, total


@part
def _replay_one_layer(
    net: Network, order: np.ndarray, sink: int, first: int, last: int, arcs: np.ndarray
) -> float:
    """Send the supply over layer 1 to the demand, as `sweep_one_layer`; return what arrives."""
    supply, demand, free = net.supply, net.demand, net.free[1]
    own, sent = demand[0, sink], 0.0
    demand[0, sink] = 0.0
    start = first // LANES * LANES
    for turn in range(last):
        j = order[turn]
        if j < first:
            continue
        out = 0.0
        for column in range(start, last, LANES):
            out += total(least(load(demand, 0, column), load(arcs, j, column)))
        to_own = smaller(own, arcs[j, sink])
        passed = smaller(supply[0, j], out + to_own)
        to_own = smaller(to_own, passed)
        sent += passed
        own -= to_own
        supply[0, j] -= passed
        used = spread((passed - to_own) / (out + TINY))
        for column in range(start, last, LANES):
            wanted, limit = load(demand, 0, column), load(arcs, j, column)
            moved = least(wanted, limit)
            store(free, j, column, lowered(limit, used, moved))
            store(demand, 0, column, lowered(wanted, used, moved))
        free[j, sink] = arcs[j, sink] - to_own
    demand[0, sink] = own
    net.transposed[1] = False
    return sent


@part
def _replay_two_layers(
    net: Network,
    order: np.ndarray,
    sink: int,
    first: int,
    last: int,
    x: int,
    transposed: np.ndarray,
    lower: np.ndarray,
) -> float:
    """Send the supply over layers x and x - 1, as `sweep_two_layers`; return what arrives.

    `transposed` is layer x with queries and keys exchanged, `lower` layer x - 1.
    """
    supply, demand = net.supply, net.demand
    free_in, free_out = net.free[x], net.free[x - 1]
    source = order[0]
    line, own = supply[0, source], demand[0, sink]
    supply[0, source] = demand[0, sink] = 0.0
    sent = 0.0
    start = first // LANES * LANES
    for turn in range(last + 1):
        # The source's node, the sink's, then the others.
        k = sink if turn == 1 else order[larger(turn - 1, 0)]
        if (turn == 1 and sink == source) or (turn > 1 and k == sink) or k < first:
            continue
        flow_in = flow_out = 0.0
        for column in range(start, last, LANES):
            flow_in += total(least(load(supply, 0, column), load(transposed, k, column)))
            flow_out += total(least(load(demand, 0, column), load(lower, k, column)))
        from_line, to_own = smaller(line, transposed[k, source]), smaller(own, lower[k, sink])
        passed = smaller(flow_in + from_line, flow_out + to_own)
        sent += passed
        from_line, to_own = smaller(from_line, passed), smaller(to_own, passed)
        line -= from_line
        own -= to_own
        used_in = spread((passed - from_line) / (flow_in + TINY))
        used_out = spread((passed - to_own) / (flow_out + TINY))
        for column in range(start, last, LANES):
            have, limit = load(supply, 0, column), load(transposed, k, column)
            moved = least(have, limit)
            store(free_in, k, column, lowered(limit, used_in, moved))
            store(supply, 0, column, lowered(have, used_in, moved))
            have, limit = load(demand, 0, column), load(lower, k, column)
            moved = least(have, limit)
            store(free_out, k, column, lowered(limit, used_out, moved))
            store(demand, 0, column, lowered(have, used_out, moved))
        free_in[k, source] = transposed[k, source] - from_line
        free_out[k, sink] = lower[k, sink] - to_own
    supply[0, source], demand[0, sink] = line, own
    net.transposed[x], net.transposed[x - 1] = True, False
    return sent


@part
def _unroll(
    net: Network,
    first: int,
    last: int,
    x: int,
    lines: np.ndarray,
    layer: np.ndarray,
    row_sums: np.ndarray,
) -> None:
    """Undo one `rolled` step: from the supply left below layer x to that left above it.

    ``lines[x]`` is the mass above the layer, ``lines[x - 1]`` what it was rolled to.
    """
    width = layer.shape[1]
    supply, free, share = net.supply, net.free[x], net.spare
    start = first // LANES * LANES
    for k in range(width):
        inside = first <= k < last and lines[x - 1, k] > 0.0
        share[0, k] = (lines[x - 1, k] - supply[0, k]) / lines[x - 1, k] if inside else 0.0
        supply[0, k] = 0.0
    for j in range(first, last):
        used, filled = 0.0, passed_on(lines[x, j], row_sums[j])
        for column in range(start, last, LANES):
            weight = load(layer, j, column)
            moved = weight * load(share, 0, column)
            used += total(moved)
            store(free, j, column, lowered(weight, spread(filled), moved))
        supply[0, j] = larger(lines[x, j] - filled * used, 0.0)
    net.transposed[x] = False


@part
def _unlift(
    net: Network,
    sink: int,
    first: int,
    last: int,
    x: int,
    above: np.ndarray,
    demand: np.ndarray,
    layer: np.ndarray,
    column_sums: np.ndarray,
) -> None:
    """Undo one `lifted` step: from the demand left above layer x to that left below it.

    `above` holds the lifted demands, `demand` those below, `column_sums` are those of `layer`.
    """
    width = layer.shape[1]
    free, left, spare = net.free[x], net.demand, net.spare
    share, own, taken = 0, 1, 2  # the rows of `spare`
    for row in range(3):
        for column in range(width):
            spare[row, column] = 0.0
    start = first // LANES * LANES
    for i in range(first, last):
        arc, wanted = layer[sink, i], demand[i, sink]
        others = larger(column_sums[i] - arc, 0.0)
        spare[share, i] = smaller(1.0, wanted / (others + TINY))
        spare[own, i] = smaller(arc, larger(wanted - spare[share, i] * others, 0.0))
    for k in range(first, last):
        lifted = above[k, sink]
        used = spread((lifted - left[0, k]) / lifted if lifted > 0.0 else 0.0)
        for column in range(start, last, LANES):
            weight = load(layer, k, column)
            moved = weight * load(spare, share, column)
            if k == sink:
                moved = load(spare, own, column)
            store(free, k, column, lowered(weight, used, moved))
            store(spare, taken, column, raised(load(spare, taken, column), used, moved))
    for i in range(first, last):
        left[0, i] = demand[i, sink] - spare[taken, i]
    net.transposed[x] = False


@part
def solve_pair(
    net: Network,
    sentence: Sentence,
    layer: int,
    order: np.ndarray,
    sink: int,
    first: int,
    last: int,
    lines: np.ndarray,
    bound: float,
) -> float:
    """Return the flow from (layer, source), layer >= 1, to the sink.

    `net` is left as its residual network. The source is ``order[0]``; only nodes from `first` to
    before `last` are on a path to the sink. ``lines[x]`` is the source's mass rolled down to the
    nodes of layer x (`roll_down`). Stops early where `bound` is met.
    """
    edges, transposed, demands = sentence.edges, sentence.transposed, sentence.demands
    top = layer - 1
    lifts = lifts_at(layer)
    middle = smaller(lifts + 2, top)
    for i in range(net.supply.shape[1]):
        net.supply[0, i] = net.demand[0, i] = 0.0
    for i in range(first, last):
        net.supply[0, i] = lines[middle, i]
        net.demand[0, i] = demands[lifts, i, sink]
    if top == 0:
        sent = 0.0
    elif top == 1:
        sent = _replay_one_layer(net, order, sink, first, last, edges[1])
    else:
        sent = _replay_two_layers(
            net, order, sink, first, last, middle, transposed[middle], edges[middle - 1]
        )
    for x in range(middle + 1, top + 1):
        _unroll(net, first, last, x, lines, edges[x], sentence.row_sums[x])
    for x in range(lifts, 0, -1):
        _unlift(
            net, sink, first, last, x, demands[x], demands[x - 1], edges[x], sentence.column_sums[x]
        )
    if sent < bound:
        for x in range(1, top + 1):
            open_masks(net, first, last, x, transposed[x] if net.transposed[x] else edges[x])
        sent = augment(net, edges, top, sent, bound)
    return sent
