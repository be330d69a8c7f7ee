"""Search the residual network: Dinic's algorithm with sets of tokens as bit masks.

A flow is maximum exactly when no path of open arcs leads from the source to the sink, where an arc
is open forwards while it has free capacity and backwards while it carries anything. This stage
makes every result exact: it accepts any feasible flow and stops only there, or where an upper bound
has been met.

Sets of tokens are machine words: bit j of word w stands for token ``64 w + j``. Of up to 64 arcs
that leave a node, the open ones that lead into a given set are one AND away, and the first of them
one count of trailing zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxflow._flow.parts import (
    larger,
    maker,
    part,
    smaller,
    zero_flags,
    zero_ints,
    zero_words,
    zeros,
)
from jaxflow._flow.simd import LANES, at_least, load, lowest, spread
from jaxflow._flow.sweep import LEAST

BIT = np.uint64(1)
NONE = np.uint64(0)


class Network(NamedTuple):
    """Residual network of one pair and work space of its search, reused from pair to pair.

    The source's and the sink's own arcs are not stored as arcs. What the source may still send to a
    node of the layer below it is that node's `supply`, what a node of layer 0 may still send to the
    sink is its `demand`. Layers count as in the edge weights: node (x, i) owns the row
    ``edges[x, i]`` of arcs down to the nodes (x - 1, j).
    """

    free: np.ndarray  # [L, n, width]: free capacity of the arc [x, query, key], or [x, key, query]
    ahead: np.ndarray  # [L, n, words]: to which keys the arcs of (x, query) are open forwards
    back: np.ndarray  # [L, n, words]: from which queries above flow comes into (x, key)
    supply: np.ndarray  # [1, width]
    demand: np.ndarray  # [1, width]
    transposed: np.ndarray  # [L]: which layers of `free` are stored as [x, key, query]
    rows: np.ndarray  # [n, words]: masks to be transposed
    front: np.ndarray  # [depths, L, words]: nodes by their distance from the source
    visited: np.ndarray  # [L, words]: nodes that the search has reached
    want: np.ndarray  # [depths]: stack of the depth-first search: what is to be sent,
    got: np.ndarray  # [depths]: what has arrived,
    where: np.ndarray  # [depths, 2]: and the node
    wanting: np.ndarray  # [words]: nodes of layer 0 with a demand
    block: np.ndarray  # [64]: for `_transpose`
    spare: np.ndarray  # [3, width]: for the steps that undo what was rolled and lifted


@maker
def new_network(memory: Any, layers: int, n: int, width: int) -> Network:
    """Return empty arrays for graphs of so many layers and tokens."""
    words = (width + 63) // 64
    depths = layers * n + 2
    return Network(
        zeros(memory, (layers, n, width)),
        zero_words(memory, (layers, n, words)),
        zero_words(memory, (layers, n, words)),
        zeros(memory, (1, width)),
        zeros(memory, (1, width)),
        zero_flags(memory, (layers,)),
        zero_words(memory, (n, words)),
        zero_words(memory, (depths, layers, words)),
        zero_words(memory, (layers, words)),
        zeros(memory, (depths,)),
        zeros(memory, (depths,)),
        zero_ints(memory, (depths, 2)),
        zero_words(memory, (words,)),
        zero_words(memory, (64,)),
        zeros(memory, (3, width)),
    )


@part
def open_masks(net: Network, first: int, last: int, x: int, weights: np.ndarray) -> None:
    """Set the masks of the arcs of layer x among the nodes from `first` to before `last`.

    `weights` are those of the layer, stored in the order of its free capacities.
    """
    free, rows, transposed = net.free[x], net.rows, net.transposed[x]
    along, across = (net.back[x - 1], net.ahead[x]) if transposed else (
        net.ahead[x], net.back[x - 1]
    )  # fmt: skip
    limit = spread(LEAST)
    for i in range(len(rows)):
        for word in range(rows.shape[1]):
            rows[i, word] = NONE
    for i in range(first, last):
        for word in range(rows.shape[1]):
            along[i, word] = NONE
        for column in range(first // LANES * LANES, last, LANES):
            left = load(free, i, column)
            flow = load(weights, i, column) - left
            shift = np.uint64(column & 63)
            can_rise = np.uint64(at_least(left, limit)) << shift
            can_fall = np.uint64(at_least(flow, limit)) << shift
            word = column >> 6
            if transposed:
                can_rise, can_fall = can_fall, can_rise
            along[i, word] |= can_rise
            rows[i, word] |= can_fall
        # Nodes before the first have no masks: nothing may lead there.
        for word in range(first >> 6):
            along[i, word] = rows[i, word] = NONE
        outside = (BIT << np.uint64(first & 63)) - BIT
        along[i, first >> 6] &= ~outside
        rows[i, first >> 6] &= ~outside
    _transpose(rows, across, net.block)


@part
def free_on(net: Network, x: int, query: int, key: int) -> float:
    """Return what the arc (x, query) -> (x - 1, key) can still carry forwards."""
    return net.free[x, key, query] if net.transposed[x] else net.free[x, query, key]


@part
def carry(net: Network, edges: np.ndarray, x: int, query: int, key: int, amount: float) -> None:
    """Send an amount, backwards if negative, over (x, query) -> (x - 1, key); update the masks."""
    left = free_on(net, x, query, key) - amount
    if net.transposed[x]:
        net.free[x, key, query] = left
    else:
        net.free[x, query, key] = left
    bit = BIT << np.uint64(key & 63)
    if left >= LEAST:
        net.ahead[x, query, key >> 6] |= bit
    else:
        net.ahead[x, query, key >> 6] &= ~bit
    bit = BIT << np.uint64(query & 63)
    if edges[x, query, key] - left >= LEAST:
        net.back[x - 1, key, query >> 6] |= bit
    else:
        net.back[x - 1, key, query >> 6] &= ~bit


@part
def _transpose(rows: np.ndarray, columns: np.ndarray, block: np.ndarray) -> None:
    """Write to `columns` the transpose of the bit matrix `rows`, both ``[n, words]``.

    Blocks of 64 x 64 bits at a time, swapping halves, quarters and so on inside each (Warren,
    *Hacker's Delight*, section 7-3).
    """
    n, words = rows.shape
    for high in range(words):
        size = smaller(64, n - 64 * high)
        for word in range(words):
            for i in range(64):
                block[i] = rows[64 * high + i, word] if i < size else NONE
            width = 32
            mask = np.uint64(0xFFFFFFFF)
            while width:
                shift = np.uint64(width)
                for base in range(0, 64, 2 * width):
                    for k in range(base, base + width):
                        swap = ((block[k] >> shift) ^ block[k + width]) & mask
                        block[k] ^= swap << shift
                        block[k + width] ^= swap
                width >>= 1
                mask ^= mask << np.uint64(width)
            for j in range(smaller(64, n - 64 * word)):
                columns[64 * word + j, high] = block[j]


@part
def augment(net: Network, edges: np.ndarray, top: int, sent: float, bound: float) -> float:
    """Add to a flow of `sent` until `bound` is met or no path is left; return the flow.

    `top` is the layer of the nodes with a supply. Each round sends what it can along the shortest
    paths that are left.
    """
    words = net.ahead.shape[2]
    front = net.front
    while sent < bound:
        depth = reach(net, top, True)
        if depth < 0:
            break
        # Only the nodes that can take something end a path of this round.
        for word in range(words):
            for layer in range(1, top + 1):
                front[depth, layer, word] = NONE
            rest = front[depth, 0, word]
            while rest != NONE:
                token = (word << 6) + lowest(rest)
                rest &= rest - BIT
                if net.demand[0, token] < LEAST:
                    front[depth, 0, word] &= ~(BIT << np.uint64(token & 63))
        for word in range(words):
            rest = front[0, top, word]
            while rest != NONE and sent < bound:
                token = (word << 6) + lowest(rest)
                rest &= rest - BIT
                given = _push(net, edges, top, token, depth)
                net.supply[0, token] -= given
                sent += given
    return sent


@part
def reach(net: Network, top: int, stop: bool) -> int:
    """Order the nodes by their distance from the source in ``net.front``.

    Returns the distance of the nearest node with a demand, where the search ends if `stop`, or -1.
    ``net.visited`` is then all that the source reaches.
    """
    n, words = net.ahead.shape[1], net.ahead.shape[2]
    front, visited, wanting, ahead, back = net.front, net.visited, net.wanting, net.ahead, net.back
    for word in range(words):
        wanting[word] = NONE
        for layer in range(top + 1):
            visited[layer, word] = NONE
    for token in range(n):
        bit = BIT << np.uint64(token & 63)
        if net.supply[0, token] >= LEAST:
            visited[top, token >> 6] |= bit
        if net.demand[0, token] >= LEAST:
            wanting[token >> 6] |= bit
    for word in range(words):
        front[0, top, word] = visited[top, word]
    low, depth = top, 0
    while True:
        if stop and low == 0:
            for word in range(words):
                if front[depth, 0, word] & wanting[word] != NONE:
                    return depth
        for layer in range(larger(low - 1, 0), top + 1):
            for word in range(words):
                front[depth + 1, layer, word] = NONE
        found = False
        # Paths start at the top and move by one layer a step: every other layer stays empty.
        for layer in range(top - (depth & 1), low - 1, -2):
            for word in range(words):
                rest = front[depth, layer, word]
                while rest != NONE:
                    token = (word << 6) + lowest(rest)
                    rest &= rest - BIT
                    for other in range(words):
                        if layer > 0:
                            new = ahead[layer, token, other] & ~visited[layer - 1, other]
                            if new != NONE:
                                found = True
                                visited[layer - 1, other] |= new
                                front[depth + 1, layer - 1, other] |= new
                        if layer < top:
                            new = back[layer, token, other] & ~visited[layer + 1, other]
                            if new != NONE:
                                found = True
                                visited[layer + 1, other] |= new
                                front[depth + 1, layer + 1, other] |= new
        if not found:
            return -1
        depth += 1
        low = larger(low - 1, 0)


@part
def _push(net: Network, edges: np.ndarray, top: int, token: int, depth: int) -> float:
    """Send from one node of the top layer along shortest paths; return what has arrived.

    The stack carries the requested amount down and the amount sent back up, so that an arc is
    updated once for all the paths through it. A node that could not send all is removed from its
    front.
    """
    words = net.ahead.shape[2]
    front, want, got, where = net.front, net.want, net.got, net.where
    ahead, back, demand = net.ahead, net.back, net.demand
    where[0, 0], where[0, 1] = top, token
    want[0], got[0] = net.supply[0, token], 0.0
    level = 0
    while True:
        layer, node = where[level, 0], where[level, 1]
        left = want[level] - got[level]
        to, key = -1, -1
        if level == depth:
            take = smaller(left, demand[0, node])
            demand[0, node] -= take
            got[level] = take
            left -= take
        elif left >= LEAST:
            if layer > 0:
                for word in range(words):
                    open_ = ahead[layer, node, word] & front[level + 1, layer - 1, word]
                    if open_ != NONE:
                        to, key = layer - 1, (word << 6) + lowest(open_)
                        limit = free_on(net, layer, node, key)
                        break
            if to < 0 and layer < top:
                for word in range(words):
                    open_ = back[layer, node, word] & front[level + 1, layer + 1, word]
                    if open_ != NONE:
                        to, key = layer + 1, (word << 6) + lowest(open_)
                        limit = edges[to, key, node] - free_on(net, to, key, node)
                        break
        if to >= 0:
            level += 1
            where[level, 0], where[level, 1] = to, key
            want[level], got[level] = smaller(left, limit), 0.0
            continue
        if left >= LEAST:
            front[level, layer, node >> 6] &= ~(BIT << np.uint64(node & 63))
        if level == 0:
            return got[0]
        level -= 1
        amount = got[level + 1]
        got[level] += amount
        above, parent = where[level, 0], where[level, 1]
        if amount > 0.0:
            if above > layer:
                carry(net, edges, above, parent, node, amount)
            else:
                carry(net, edges, layer, node, parent, -amount)
