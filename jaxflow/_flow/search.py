"""Residual search: Dinic's algorithm on the attention graph, with sets of tokens as bit masks.

Statement: a flow is maximum exactly when no path of open arcs leads from the source to the sink,
where an arc is open forwards while it can carry more and backwards while it carries anything.
This is the stage that makes every result exact: it accepts any feasible flow and stops only there,
or where an upper bound has been met.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow.bits import BIT, NONE, lowest
from jaxflow._flow.compiled import bare, counting
from jaxflow._flow.network import LEAST, Network, carry, room_on

__all__ = ["augment", "reach"]


@bare
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
        front[depth, 1 : top + 1] = NONE
        for word in range(words):
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


@counting
def reach(net: Network, top: int, stop: bool) -> int:
    """Order the nodes by their distance from the source in ``net.front``.

    Returns the distance of the nearest node with a demand, where the search ends if `stop`, or -1.
    ``net.visited`` is then all that the source reaches.
    """
    n, words = net.ahead.shape[1], net.ahead.shape[2]
    front, visited = net.front, net.visited
    wanting = np.empty(words, np.uint64)
    for word in range(words):
        wanting[word] = NONE
        visited[top, word] = NONE
    for layer in range(top):
        visited[layer, :] = NONE
    for token in range(n):
        bit = BIT << np.uint64(token & 63)
        if net.supply[0, token] >= LEAST:
            visited[top, token >> 6] |= bit
        if net.demand[0, token] >= LEAST:
            wanting[token >> 6] |= bit
    front[0, top] = visited[top]
    low, depth = top, 0
    while True:
        if stop and low == 0:
            for word in range(words):
                if front[depth, 0, word] & wanting[word] != NONE:
                    return depth
        front[depth + 1, max(low - 1, 0) : top + 1] = NONE
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
                            new = net.ahead[layer, token, other] & ~visited[layer - 1, other]
                            if new != NONE:
                                found = True
                                visited[layer - 1, other] |= new
                                front[depth + 1, layer - 1, other] |= new
                        if layer < top:
                            new = net.back[layer, token, other] & ~visited[layer + 1, other]
                            if new != NONE:
                                found = True
                                visited[layer + 1, other] |= new
                                front[depth + 1, layer + 1, other] |= new
        if not found:
            return -1
        depth += 1
        low = max(low - 1, 0)


@bare
def _push(net: Network, edges: np.ndarray, top: int, token: int, depth: int) -> float:
    """Send from one node of the top layer along shortest paths; return what has arrived.

    Amounts go down the stack as a wish and come back as a result, so that an arc is updated once
    for all the paths through it. A node that could not send all of a wish leaves its front.
    """
    words = net.ahead.shape[2]
    front, want, got, where = net.front, net.want, net.got, net.where
    where[0, 0], where[0, 1] = top, token
    want[0], got[0] = net.supply[0, token], 0.0
    level = 0
    while True:
        layer, node = where[level, 0], where[level, 1]
        left = want[level] - got[level]
        to, key = -1, -1
        if level == depth:
            take = min(left, net.demand[0, node])
            net.demand[0, node] -= take
            got[level] = take
            left -= take
        elif left >= LEAST:
            if layer > 0:
                for word in range(words):
                    open_ = net.ahead[layer, node, word] & front[level + 1, layer - 1, word]
                    if open_ != NONE:
                        to, key = layer - 1, (word << 6) + lowest(open_)
                        room = room_on(net, layer, node, key)
                        break
            if to < 0 and layer < top:
                for word in range(words):
                    open_ = net.back[layer, node, word] & front[level + 1, layer + 1, word]
                    if open_ != NONE:
                        to, key = layer + 1, (word << 6) + lowest(open_)
                        room = edges[to, key, node] - room_on(net, to, key, node)
                        break
        if to >= 0:
            level += 1
            where[level, 0], where[level, 1] = to, key
            want[level], got[level] = min(left, room), 0.0
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
