"""A first flow for one pair: the lockstep passes once more, this time kept arc by arc.

Statement: the passes leave a feasible flow that lacks little of the largest one, so the search
that follows has a few paths left to find instead of hundreds. One sink alone fills no lanes; here
the lanes are the nodes at the other end of a node's arcs.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow.compiled import bare, counting
from jaxflow._flow.lanes import LANES, least, load, lowered, raised, space, spread, store, total
from jaxflow._flow.lift import TINY, passed_on
from jaxflow._flow.network import Network

__all__ = ["replay_one_layer", "replay_two_layers", "unlift", "unroll"]


@bare
def replay_one_layer(
    net: Network, order: np.ndarray, sink: int, first: int, last: int, arcs: np.ndarray
) -> float:
    """Send the supply over layer 1 to the demand, as `sweep_one_layer`; return what arrives."""
    supply, demand, room = net.supply, net.demand, net.room[1]
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
        to_own = min(own, arcs[j, sink])
        passed = min(supply[0, j], out + to_own)
        to_own = min(to_own, passed)
        sent += passed
        own -= to_own
        supply[0, j] -= passed
        used = spread((passed - to_own) / (out + TINY))
        for column in range(start, last, LANES):
            wish, limit = load(demand, 0, column), load(arcs, j, column)
            part = least(wish, limit)
            store(room, j, column, lowered(limit, used, part))
            store(demand, 0, column, lowered(wish, used, part))
        room[j, sink] = arcs[j, sink] - to_own
    demand[0, sink] = own
    net.turned[1] = False
    return sent


@bare
def replay_two_layers(
    net: Network,
    order: np.ndarray,
    sink: int,
    first: int,
    last: int,
    x: int,
    into: np.ndarray,
    lower: np.ndarray,
) -> float:
    """Send the supply over layers x and x - 1, as `sweep_two_layers`; return what arrives.

    `into` is layer x transposed, `lower` layer x - 1.
    """
    supply, demand = net.supply, net.demand
    room_in, room_out = net.room[x], net.room[x - 1]
    source = order[0]
    line, own = supply[0, source], demand[0, sink]
    supply[0, source] = demand[0, sink] = 0.0
    sent = 0.0
    start = first // LANES * LANES
    for turn in range(last + 1):
        # The source's node, the sink's, then the others.
        k = sink if turn == 1 else order[max(turn - 1, 0)]
        if (turn == 1 and sink == source) or (turn > 1 and k == sink) or k < first:
            continue
        flow_in = flow_out = 0.0
        for column in range(start, last, LANES):
            flow_in += total(least(load(supply, 0, column), load(into, k, column)))
            flow_out += total(least(load(demand, 0, column), load(lower, k, column)))
        from_line, to_own = min(line, into[k, source]), min(own, lower[k, sink])
        passed = min(flow_in + from_line, flow_out + to_own)
        sent += passed
        from_line, to_own = min(from_line, passed), min(to_own, passed)
        line -= from_line
        own -= to_own
        used_in = spread((passed - from_line) / (flow_in + TINY))
        used_out = spread((passed - to_own) / (flow_out + TINY))
        for column in range(start, last, LANES):
            have, limit = load(supply, 0, column), load(into, k, column)
            part = least(have, limit)
            store(room_in, k, column, lowered(limit, used_in, part))
            store(supply, 0, column, lowered(have, used_in, part))
            have, limit = load(demand, 0, column), load(lower, k, column)
            part = least(have, limit)
            store(room_out, k, column, lowered(limit, used_out, part))
            store(demand, 0, column, lowered(have, used_out, part))
        room_in[k, source] = into[k, source] - from_line
        room_out[k, sink] = lower[k, sink] - to_own
    supply[0, source], demand[0, sink] = line, own
    net.turned[x], net.turned[x - 1] = True, False
    return sent


@counting
def unroll(
    net: Network,
    first: int,
    last: int,
    x: int,
    line: np.ndarray,
    below: np.ndarray,
    layer: np.ndarray,
    out: np.ndarray,
) -> None:
    """Undo one `rolled` step: from the supply left below layer x to that left above it.

    `line` is the mass above the layer, `below` what it was rolled to, `out` the layer's row sums.
    """
    width = layer.shape[1]
    supply, room = net.supply, net.room[x]
    share = space((1, width))
    start = first // LANES * LANES
    for k in range(first, last):
        if below[k] > 0.0:
            share[0, k] = (below[k] - supply[0, k]) / below[k]
    supply[0, :] = 0.0
    for j in range(first, last):
        used, filled = 0.0, passed_on(line[j], out[j])
        for column in range(start, last, LANES):
            weight = load(layer, j, column)
            part = weight * load(share, 0, column)
            used += total(part)
            store(room, j, column, lowered(weight, spread(filled), part))
        supply[0, j] = max(line[j] - filled * used, 0.0)
    net.turned[x] = False


@counting
def unlift(
    net: Network,
    sink: int,
    first: int,
    last: int,
    x: int,
    above: np.ndarray,
    demand: np.ndarray,
    layer: np.ndarray,
    into: np.ndarray,
) -> None:
    """Undo one `lifted` step: from the demand left above layer x to that left below it.

    `above` holds the lifted demands, `demand` those below, `into` the column sums of `layer`.
    """
    width = layer.shape[1]
    room, left = net.room[x], net.demand
    share, own, taken = space((1, width)), space((1, width)), space((1, width))
    start = first // LANES * LANES
    for i in range(first, last):
        arc, wish = layer[sink, i], demand[i, sink]
        others = max(into[i] - arc, 0.0)
        share[0, i] = min(1.0, wish / (others + TINY))
        own[0, i] = min(arc, max(wish - share[0, i] * others, 0.0))
    for k in range(first, last):
        lifted = above[k, sink]
        used = spread((lifted - left[0, k]) / lifted if lifted > 0.0 else 0.0)
        for column in range(start, last, LANES):
            weight = load(layer, k, column)
            part = load(own, 0, column) if k == sink else weight * load(share, 0, column)
            store(room, k, column, lowered(weight, used, part))
            store(taken, 0, column, raised(load(taken, 0, column), used, part))
    for i in range(first, last):
        left[0, i] = demand[i, sink] - taken[0, i]
    net.turned[x] = False
