"""The residual network of one pair: what every arc can still carry, either way.

The source's and the sink's own arcs are not stored as arcs. What the source may still send to a
node of the layer below it is that node's `supply`, what a node of layer 0 may still send to the
sink is its `demand`. Layers count as in the edge weights: node (x, i) owns the row ``edges[x, i]``
of arcs down to the nodes (x - 1, j).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxflow._flow.bits import BIT, NONE, transpose
from jaxflow._flow.compiled import bare, counting
from jaxflow._flow.lanes import LANES, at_least, load, space, spread

__all__ = ["LEAST", "Network", "carry", "new_network", "open_masks", "room_on"]

# An arc with less room than this counts as full. Rounding leaves some 1e-16 on arcs that are full;
# the arcs of a cut, at most 16,000 a layer at n = 128, cannot hide more than 2e-11 a layer.
LEAST = 1e-15


class Network(NamedTuple):
    """Residual network and work space of its search, reused from pair to pair.

    Attributes
    ----------
    room
        ``[L, n, width]``: what arc (x, query) -> (x - 1, key) can still carry forwards, at
        ``[x, key, query]`` where ``turned[x]``, else at ``[x, query, key]``.
    ahead
        ``[L, n, words]``: to which keys the arcs of a query (x, query) are open forwards.
    back
        ``[L, n, words]``: from which queries above flow comes into a node (x, key).
    supply, demand
        ``[1, width]``: what the source can still send and the sink still take.
    turned
        ``[L]``: which layers of `room` are stored transposed.
    rows
        ``[n, words]``: masks on their way to being transposed.
    front
        ``[depths, L, words]``: nodes by their distance from the source.
    visited
        ``[L, words]``: nodes that the search has reached.
    want, got, where
        ``[depths]``: the stack of the depth-first search.
    """

    room: np.ndarray
    ahead: np.ndarray
    back: np.ndarray
    supply: np.ndarray
    demand: np.ndarray
    turned: np.ndarray
    rows: np.ndarray
    front: np.ndarray
    visited: np.ndarray
    want: np.ndarray
    got: np.ndarray
    where: np.ndarray


@counting
def new_network(layers: int, n: int, width: int) -> Network:
    """Return work space for graphs of so many layers and tokens."""
    words = (width + 63) // 64
    depths = layers * n + 2
    return Network(
        space((layers, n, width)),
        np.empty((layers, n, words), np.uint64),
        np.empty((layers, n, words), np.uint64),
        space((1, width)),
        space((1, width)),
        np.zeros(layers, np.bool_),
        np.empty((n, words), np.uint64),
        np.empty((depths, layers, words), np.uint64),
        np.empty((layers, words), np.uint64),
        np.empty(depths),
        np.empty(depths),
        np.empty((depths, 2), np.int64),
    )


@bare
def open_masks(net: Network, first: int, last: int, x: int, weights: np.ndarray) -> None:
    """Set the masks of the arcs of layer x among the nodes from `first` to before `last`.

    `weights` are those of the layer, stored in the order of its room.
    """
    room, rows = net.room[x], net.rows
    along, across = (net.back[x - 1], net.ahead[x]) if net.turned[x] else (
        net.ahead[x], net.back[x - 1]
    )  # fmt: skip
    limit = spread(LEAST)
    rows[:first] = NONE
    rows[last:] = NONE
    for i in range(first, last):
        for word in range(rows.shape[1]):
            along[i, word] = rows[i, word] = NONE
        for column in range(first // LANES * LANES, last, LANES):
            free = load(room, i, column)
            flow = load(weights, i, column) - free
            shift = np.uint64(column & 63)
            can_rise = np.uint64(at_least(free, limit)) << shift
            can_fall = np.uint64(at_least(flow, limit)) << shift
            word = column >> 6
            if net.turned[x]:
                can_rise, can_fall = can_fall, can_rise
            along[i, word] |= can_rise
            rows[i, word] |= can_fall
        # Nodes before the first have no masks: nothing may lead there.
        for word in range(first >> 6):
            along[i, word] = rows[i, word] = NONE
        outside = (BIT << np.uint64(first & 63)) - BIT
        along[i, first >> 6] &= ~outside
        rows[i, first >> 6] &= ~outside
    transpose(rows, across)


@bare
def room_on(net: Network, x: int, query: int, key: int) -> float:
    """Return what the arc (x, query) -> (x - 1, key) can still carry forwards."""
    return net.room[x, key, query] if net.turned[x] else net.room[x, query, key]


@bare
def carry(net: Network, edges: np.ndarray, x: int, query: int, key: int, amount: float) -> None:
    """Send an amount, backwards if negative, over (x, query) -> (x - 1, key); update the masks."""
    room = room_on(net, x, query, key) - amount
    if net.turned[x]:
        net.room[x, key, query] = room
    else:
        net.room[x, query, key] = room
    bit = BIT << np.uint64(key & 63)
    if room >= LEAST:
        net.ahead[x, query, key >> 6] |= bit
    else:
        net.ahead[x, query, key >> 6] &= ~bit
    bit = BIT << np.uint64(query & 63)
    if edges[x, query, key] - room >= LEAST:
        net.back[x - 1, key, query >> 6] |= bit
    else:
        net.back[x - 1, key, query >> 6] &= ~bit
