"""Compute flow on a core graph: a few arcs of each token instead of all, compiled by numba.

For one source and one sink the core holds, of each layer, the source's row, the sink's column, the
vertical arcs and the largest arcs of each token. It is a subgraph: its maximum flow is a lower
bound. The minimum cut of the core, weighed on the whole graph, is an upper bound.

Node (x, i) has the number ``x n + i`` and owns the arcs of row i of layer x, down to the nodes
(x - 1, j). All that the source's row holds starts as excess at the nodes below the source, which
moves down until no path leads from excess to a node of layer 0 that can still send to the sink.
Excess that remains never counts, so that what has arrived is the value of a feasible flow. No path
leads out of the nodes that excess still reaches: with the source they are a minimum cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit as _njit

njit: Any = _njit

# An arc with less free capacity than this counts as full.
LEAST = 1e-15
# A flow this close to an upper bound counts as equal to it.
CLOSE = 1e-12


class Graph(NamedTuple):
    """Arcs of the core for one source, and residual state of one sink.

    The arcs of node v are ``start[v]`` to before ``start[v + 1]``: first the one to the sink's own
    node, whose capacity each sink sets anew, then the vertical one, then the others. The source's
    own nodes have, after the first, which stays empty, one arc to every token.
    """

    start: np.ndarray  # [V + 1]
    to: np.ndarray  # [arcs]: node below
    capacity: np.ndarray  # [arcs]
    in_start: np.ndarray  # [V + 1]: arcs into a node, those to the sink's own nodes left out
    in_arc: np.ndarray
    in_tail: np.ndarray
    inflow: np.ndarray  # [V]: capacity into a node from others than the source
    free: np.ndarray  # [arcs]: residual capacity
    excess: np.ndarray  # [V]
    demand: np.ndarray  # [n]: what nodes of layer 0 can still send to the sink
    guide: np.ndarray  # [V]: what nodes could send to the sink, all at the same time
    distance: np.ndarray  # [V]
    queue: np.ndarray  # [V]
    at: np.ndarray  # [V]: the arc that a depth-first search tries next
    path: np.ndarray  # [V, 2]: nodes and arcs of its path


@njit(nogil=True, cache=True)
def build(
    n: int,
    levels: int,
    source: int,
    last: int,
    tails: np.ndarray,
    keys: np.ndarray,
    weights: np.ndarray,
    diagonal: np.ndarray,
    rows: np.ndarray,
) -> Graph:
    """Return the core below a source whose row leads to the nodes of layer ``levels - 1``.

    `tails` (ascending), `keys` and `weights` are the largest arcs of tokens, without vertical ones;
    `diagonal` and `rows`, the source's, are ``[L, n]``. Tokens from `last` on are left out.
    """
    nodes = levels * n
    most = np.searchsorted(tails, nodes) + (levels - 1) * (3 * n)
    start = np.zeros(nodes + 1, np.int32)
    to, capacity = np.empty(most, np.int32), np.zeros(most)
    in_start, inflow = np.zeros(nodes + 2, np.int32), np.zeros(nodes)
    end, given = 0, np.searchsorted(tails, n)
    for v in range(n, nodes):
        start[v] = end
        x, i = v // n, v % n
        below = v - i - n
        if i == source:
            to[end] = below
            end += 1
            for j in range(last):
                to[end], capacity[end] = below + j, rows[x, j]
                end += 1
        elif i < last:
            to[end] = below
            to[end + 1], capacity[end + 1] = v - n, diagonal[x, i]
            inflow[v - n] += diagonal[x, i]
            end += 2
        while given < len(tails) and tails[given] == v:
            if i != source and i < last:
                to[end], capacity[end] = below + keys[given], weights[given]
                inflow[to[end]] += capacity[end]
                end += 1
            given += 1
    start[nodes] = end
    for v in range(n, nodes):
        for a in range(start[v] + 1, start[v + 1]):
            in_start[to[a] + 2] += 1
    for v in range(nodes):
        in_start[v + 2] += in_start[v + 1]
    in_arc, in_tail = (
        np.empty(in_start[nodes + 1], np.int32),
        np.empty(in_start[nodes + 1], np.int32),
    )
    for v in range(n, nodes):
        for a in range(start[v] + 1, start[v + 1]):
            place = in_start[to[a] + 1]
            in_arc[place], in_tail[place] = a, v
            in_start[to[a] + 1] += 1
    return Graph(
        start, to[:end], capacity[:end], in_start[: nodes + 1], in_arc, in_tail, inflow,
        np.empty(end), np.zeros(nodes), np.zeros(n), np.zeros(nodes),
        np.empty(nodes, np.int32), np.empty(nodes, np.int32), np.empty(nodes, np.int32),
        np.empty((nodes + 1, 2), np.int32),
    )  # fmt: skip


@njit(nogil=True, cache=True)
def solve(
    g: Graph, n: int, source: int, sink: int, first: int, last: int, supply: np.ndarray,
    column: np.ndarray, bound: float,
) -> float:  # fmt: skip
    """Return the flow to one sink on the core, or a flow of `bound` or more; ``g`` holds it.

    `column` is ``[L, n]``, the sink's; only tokens from `first` to before `last` are on a path.
    """
    _reset(g, n, source, sink, first, last, supply, column)
    _lift(g, n, source, sink, first, last, column)
    sent = _push_down(g, n, source, sink, first, last)
    while sent < bound - CLOSE:
        depth = _distances(g, n, source, sink, first, last)
        if depth < 0:
            break
        for v in g.queue[: g.path[len(g.path) - 1, 0]]:
            while g.excess[v] >= LEAST and g.distance[v] == 0:
                amount = _advance(g, n, source, sink, first, last, v)
                if amount == 0.0:
                    break
                sent += amount
    return sent


@njit(nogil=True)
def _reset(
    g: Graph, n: int, source: int, sink: int, first: int, last: int, supply: np.ndarray,
    column: np.ndarray,
) -> None:  # fmt: skip
    """Set all arcs free, but those of tokens' own to the sink's nodes, which the column holds."""
    levels = len(g.excess) // n
    g.excess[:] = 0.0
    for i in range(n):
        inside = first <= i < last
        g.demand[i] = column[0, i] if inside else 0.0
        g.excess[(levels - 1) * n + i] = supply[i] if inside else 0.0
    for x in range(1, levels):
        low = (x - 1) * n + first
        for i in range(first, last):
            v = x * n + i
            begin, end = g.start[v], g.start[v + 1]
            if i == source:
                g.free[begin] = 0.0
                g.free[begin + 1 : begin + 1 + first] = 0.0
                g.free[begin + 1 + first : end] = g.capacity[begin + 1 + first : end]
                continue
            g.capacity[begin] = g.free[begin] = column[x, i]
            for a in range(begin + 1, end):
                g.free[a] = 0.0 if g.to[a] < low or g.to[a] == low - first + sink else g.capacity[a]


@njit(nogil=True)
def _lift(
    g: Graph, n: int, source: int, sink: int, first: int, last: int, column: np.ndarray
) -> None:
    """Set ``g.guide``: demands lifted layer by layer, the source's own node served first.

    The others share what is left in proportion to their arcs, the sink's own node last.
    """
    room, share = np.zeros(n), np.zeros(n)
    g.guide[:n] = g.demand
    for x in range(1, len(g.excess) // n):
        base = (x - 1) * n
        room[:] = g.guide[base : base + n]
        begin, own = g.start[x * n + source] + 1, 0.0
        for j in range(first, last):
            taken = min(g.free[begin + j], room[j])
            own += taken
            room[j] -= taken
        into = g.inflow[base : base + n].copy()
        into[sink] = 0.0
        for i in range(first, last):
            if i != sink and i != source:
                into[sink] += column[x, i]
        v = x * n + sink
        if sink != source:
            for a in range(g.start[v] + 1, g.start[v + 1]):
                into[g.to[a] - base] -= g.free[a]
        for j in range(first, last):
            share[j] = 1.0 if room[j] >= into[j] else room[j] / into[j]
        for i in range(first, last):
            if i == source:
                g.guide[x * n + i] = own
                continue
            begin, sums = g.start[x * n + i], 0.0
            if i == sink:
                left = room[sink] - share[sink] * into[sink]
                sums = min(g.free[begin], max(left, 0.0))
                for a in range(begin + 1, g.start[x * n + i + 1]):
                    j = g.to[a] - base
                    sums += min(g.free[a], max(room[j] - share[j] * into[j], 0.0))
            else:
                sums = g.free[begin] * share[sink]
                for a in range(begin + 1, g.start[x * n + i + 1]):
                    sums += g.free[a] * share[g.to[a] - base]
            g.guide[x * n + i] = sums


@njit(nogil=True)
def _send(g: Graph, v: int, a: int, w: int, amount: float) -> None:
    g.free[a] -= amount
    g.excess[v] -= amount
    g.excess[w] += amount
    g.guide[w] -= amount


@njit(nogil=True)
def _push_down(g: Graph, n: int, source: int, sink: int, first: int, last: int) -> float:
    """Move excess down all layers, as the guide advises, and what is left straight down."""
    for x in range(len(g.excess) // n - 1, 0, -1):
        own = (x - 1) * n + sink
        for turn in range(first - 1, last):
            i = source if turn < first else turn
            v = x * n + i
            if g.excess[v] < LEAST or (turn >= first and i == source):
                continue
            begin, end = g.start[v], g.start[v + 1]
            to_own = begin + 1 + sink if i == source else begin
            _send(g, v, to_own, own, min(g.excess[v], g.free[to_own], max(g.guide[own], 0.0)))
            wanted = 0.0
            for a in range(begin + 1, end):
                wanted += min(g.free[a], max(g.guide[g.to[a]], 0.0))
            if wanted > 0.0:
                part = min(1.0, g.excess[v] / wanted)
                for a in range(begin + 1, end):
                    amount = part * min(g.free[a], max(g.guide[g.to[a]], 0.0))
                    if amount > 0.0:
                        _send(g, v, a, g.to[a], amount)
            straight = begin + 1 + source if i == source else begin + 1
            if g.excess[v] > 0.0 and i != sink:
                _send(g, v, straight, v - n, min(g.excess[v], g.free[straight]))
            if g.excess[v] > 0.0:
                _send(g, v, to_own, own, min(g.excess[v], g.free[to_own]))
            a = begin + 1
            while g.excess[v] >= LEAST and a < end:
                if g.free[a] > 0.0:
                    _send(g, v, a, g.to[a], min(g.excess[v], g.free[a]))
                a += 1
    sent = 0.0
    for i in range(first, last):
        taken = min(g.excess[i], g.demand[i])
        g.excess[i] -= taken
        g.demand[i] -= taken
        sent += taken
    return sent


@njit(nogil=True)
def _step(
    g: Graph, n: int, source: int, sink: int, first: int, last: int, v: int, turn: int
) -> tuple[int, int, float]:
    """Return node, arc and residual capacity of the residual arc number `turn` out of a node.

    Arcs downwards come first, then those upwards, along which flow is taken back. The arc is
    ``-1 - a`` for the latter, the node -1 past the last one. Only for nodes from `first` on.
    """
    begin, end = g.start[v], g.start[v + 1]
    x, i = v // n, v % n
    if turn < end - begin:
        a = begin + turn
        return (v - i - n + sink if turn == 0 else g.to[a]), a, g.free[a]
    turn -= end - begin
    if (x + 1) * n >= len(g.excess):
        return -1, 0, 0.0
    if i == sink:
        k = first + turn
        if k >= last:
            return -1, 0, 0.0
        a = g.start[(x + 1) * n + k]
        if k == source:
            a += 1 + sink
        return (x + 1) * n + k, -1 - a, g.capacity[a] - g.free[a]
    turn += g.in_start[v]
    if turn >= g.in_start[v + 1]:
        return -1, 0, 0.0
    a = g.in_arc[turn]
    return g.in_tail[turn], -1 - a, g.capacity[a] - g.free[a]


@njit(nogil=True)
def _distances(g: Graph, n: int, source: int, sink: int, first: int, last: int) -> int:
    """Set ``g.distance`` from the nodes with excess; return that of the nearest demand, or -1.

    Nodes that are not reached have -1, and those further than the nearest demand.
    """
    g.distance[:] = -1
    count = 0
    for x in range(len(g.excess) // n):
        for v in range(x * n + first, x * n + last):
            if g.excess[v] >= LEAST:
                g.distance[v] = 0
                g.queue[count] = v
                count += 1
    g.path[len(g.path) - 1, 0] = count
    place, found = 0, -1
    while place < count:
        v = g.queue[place]
        place += 1
        depth = g.distance[v]
        g.at[v] = 0
        if 0 <= found <= depth:
            continue
        if v < n and g.demand[v] >= LEAST:
            found = depth
            continue
        turn = 0
        while True:
            w, _, left = _step(g, n, source, sink, first, last, v, turn)
            if w < 0:
                break
            turn += 1
            if left >= LEAST and g.distance[w] < 0:
                g.distance[w] = depth + 1
                g.queue[count] = w
                count += 1
                if w < n and g.demand[w] >= LEAST:
                    found = depth + 1
    return found


@njit(nogil=True)
def _advance(g: Graph, n: int, source: int, sink: int, first: int, last: int, v: int) -> float:
    """Send excess of a node along one shortest path to a demand; return how much, 0 if none."""
    path, length = g.path, 0
    path[0, 0] = v
    while True:
        v = path[length, 0]
        if v < n and g.demand[v] >= LEAST:
            break
        w, a, left = _step(g, n, source, sink, first, last, v, g.at[v])
        if w < 0:
            g.distance[v] = -2
            if length == 0:
                return 0.0
            length -= 1
            g.at[path[length, 0]] += 1
        elif left >= LEAST and g.distance[w] == g.distance[v] + 1:
            path[length, 1] = a
            length += 1
            path[length, 0] = w
        else:
            g.at[v] += 1
    amount = min(g.excess[path[0, 0]], g.demand[path[length, 0]])
    for place in range(length):
        a = path[place, 1]
        amount = min(amount, g.free[a] if a >= 0 else g.capacity[-1 - a] - g.free[-1 - a])
    for place in range(length):
        a = path[place, 1]
        if a >= 0:
            g.free[a] -= amount
        else:
            g.free[-1 - a] += amount
    g.excess[path[0, 0]] -= amount
    g.demand[path[length, 0]] -= amount
    return amount


@njit(nogil=True, cache=True)
def sides(
    g: Graph, n: int, source: int, sink: int, first: int, last: int, result: np.ndarray
) -> None:
    """Write to `result` ``[2, levels, n]`` which nodes are on the source's side of two cuts.

    The one nearest to the source: nodes that excess still reaches. The one nearest to the sink:
    nodes from which no demand can be reached any more.
    """
    nodes = len(g.excess)
    _distances(g, n, source, sink, first, last)
    reached = g.distance >= 0
    result[0] = reached.reshape(nodes // n, n)
    result[1] = True
    count = 0
    for i in range(first, last):
        if g.demand[i] >= LEAST:
            result[1, 0, i] = False
            g.queue[count] = i
            count += 1
    place = 0
    while place < count:  # from the demands against the residual arcs
        v = g.queue[place]
        place += 1
        x, i = v // n, v % n
        for a in range(g.start[v], g.start[v + 1]):  # flow v -> w opens w -> v
            w = v - i - n + sink if a == g.start[v] else g.to[a]
            if g.capacity[a] - g.free[a] >= LEAST and w % n >= first:
                if w % n == sink and a != g.start[v] and i != source:
                    continue  # such an arc is not in this sink's core: the column has it
                if result[1, x - 1, w % n]:
                    result[1, x - 1, w % n] = False
                    g.queue[count] = w
                    count += 1
        if (x + 1) * n >= nodes:
            continue
        if i == sink:
            for k in range(first, last):
                a = g.start[(x + 1) * n + k] + (1 + sink if k == source else 0)
                if g.free[a] >= LEAST and result[1, x + 1, k]:
                    result[1, x + 1, k] = False
                    g.queue[count] = (x + 1) * n + k
                    count += 1
            continue
        for e in range(g.in_start[v], g.in_start[v + 1]):
            k = g.in_tail[e] % n
            if first <= k < last and g.free[g.in_arc[e]] >= LEAST and result[1, x + 1, k]:
                result[1, x + 1, k] = False
                g.queue[count] = g.in_tail[e]
                count += 1


@njit(nogil=True, cache=True)
def simple_bound(
    rows: np.ndarray, column: np.ndarray, source: int, sink: int, layer: int, first: int, last: int
) -> float:
    """Return the least of four cuts: row, column, and those along their vertical lines.

    `rows` and `column`, the source's and the sink's, are ``[L, n]``. See `sweep`.
    """
    sends, takes, leaving, entering, lowest, highest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(first, last):
        sends += rows[layer, k]
        takes += column[0, k]
        lowest += min(rows[1, k], column[0, k])
        highest += min(rows[layer, k], column[layer - 1, k])
        if k != source:
            for x in range(2, layer + 1):
                leaving += rows[x, k]
        if k != sink:
            for x in range(layer - 1):
                entering += column[x, k]
    return min(sends, takes, leaving + lowest, entering + highest)


@njit(nogil=True)
def _fuse(
    block: np.ndarray, row: int, query: int, head: int, end: int, residual: float, out: np.ndarray
) -> None:
    """Write one row of edge weights, those of `jaxflow.attention.edge_weights` to the last bit."""
    out[:] = 0.0
    for h in range(head, end):
        for key in range(len(out)):
            out[key] += block[h, row, key]
    for key in range(len(out)):
        out[key] = (1.0 - residual) * (out[key] / (end - head))
    out[query] += residual


@njit(nogil=True)
def _largest(
    query: int, count: int, keys: np.ndarray, values: np.ndarray, chosen: np.ndarray,
    weights: np.ndarray,
) -> None:  # fmt: skip
    """Write the largest entries of a row but the diagonal, in descending order."""
    m = len(chosen)
    chosen[:] = -1
    weights[:] = 0.0
    for e in range(count):
        value = values[e]
        if value > weights[m - 1] and keys[e] != query:
            at = m - 1
            while at > 0 and weights[at - 1] < value:
                weights[at], chosen[at] = weights[at - 1], chosen[at - 1]
                at -= 1
            weights[at], chosen[at] = value, keys[e]


@njit(nogil=True, cache=True)
def read_dense(
    block: np.ndarray, begin: int, head: int, end: int, residual: float, real: np.ndarray,
    tolerance: float, chosen: np.ndarray, weights: np.ndarray, diagonal: np.ndarray,
) -> tuple[bool, bool]:  # fmt: skip
    """Take the largest entries and the diagonal from rows ``[H, rows, n]`` of one layer.

    Returns whether the rows are sound, and whether one has an entry at a later token.
    """
    heads, count, n = block.shape
    keys, out, later = np.arange(n), np.empty(n), False
    for row in range(count):
        query = begin + row
        if not real[query]:
            chosen[row] = -1
            diagonal[row] = 0.0
            continue
        for h in range(heads):
            sums, negative = 0.0, False
            for key in range(n):
                value = block[h, row, key]
                sums += value
                negative |= value < 0.0
                if value != 0.0 and not real[key]:
                    return False, later
            if negative or not abs(sums - 1.0) <= tolerance:
                return False, later
        _fuse(block, row, query, head, end, residual, out)
        for key in range(query + 1, n):
            later |= out[key] != 0.0
        diagonal[row] = out[query]
        _largest(query, n, keys, out, chosen[row], weights[row])
    return True, later


@njit(nogil=True, cache=True)
def read_sparse(
    starts: np.ndarray, keys: np.ndarray, values: np.ndarray, begin: int, chosen: np.ndarray,
    weights: np.ndarray, diagonal: np.ndarray,
) -> bool:  # fmt: skip
    """As `read_dense` from rows of edge weights in compressed form, which are checked already."""
    later = False
    for row in range(len(chosen)):
        query, low, high = begin + row, starts[row], starts[row + 1]
        diagonal[row] = 0.0
        for e in range(low, high):
            later |= keys[e] > query and values[e] != 0.0
            if keys[e] == query:
                diagonal[row] = values[e]
        _largest(query, high - low, keys[low:high], values[low:high], chosen[row], weights[row])
    return later


class Found(NamedTuple):
    """Edges that cross a cut and are not in the core, the heaviest of each row."""

    crossing: np.ndarray  # [2]: total weight of all edges that cross each cut
    keys: np.ndarray  # [rows, r], -1 for none
    weights: np.ndarray  # [rows, r]


@njit(nogil=True)
def _cross_row(
    query: int, count: int, keys: np.ndarray, values: np.ndarray, x: int, inside: np.ndarray,
    first: int, last: int, sink: int, source: int, mark: np.ndarray, found: Found, row: int,
) -> None:  # fmt: skip
    """Add the edges of one row of layer x that cross the cuts; list those without a mark."""
    chosen, weights = found.keys[row], found.weights[row]
    m = len(chosen)
    one, two = inside[0, x, query], inside[1, x, query]
    for e in range(count):
        key, value = keys[e], values[e]
        if key < first or key >= last or value == 0.0:
            continue
        over, under = one and not inside[0, x - 1, key], two and not inside[1, x - 1, key]
        if not (over or under):
            continue
        if over:
            found.crossing[0] += value
        if under:
            found.crossing[1] += value
        if query == source or key in (sink, query) or mark[key] == query:
            continue
        if value > weights[m - 1]:
            at = m - 1
            while at > 0 and weights[at - 1] < value:
                weights[at], chosen[at] = weights[at - 1], chosen[at - 1]
                at -= 1
            weights[at], chosen[at] = value, key


@njit(nogil=True)
def _marked(query: int, node: int, tails: np.ndarray, keys: np.ndarray, mark: np.ndarray) -> None:
    for e in range(np.searchsorted(tails, node), len(tails)):
        if tails[e] != node:
            break
        mark[keys[e]] = query


@njit(nogil=True, cache=True)
def cross_dense(
    block: np.ndarray, begin: int, head: int, end: int, residual: float, real: np.ndarray,
    x: int, inside: np.ndarray, first: int, last: int, sink: int, source: int,
    tails: np.ndarray, keys: np.ndarray, found: Found,
) -> None:  # fmt: skip
    """Weigh what crosses two cuts in rows ``[H, rows, n]`` of layer x.

    `inside` ``[2, levels, n]`` are the nodes on the source's side, `tails` and `keys` the arcs that
    the core holds besides row, column and vertical ones.
    """
    n = block.shape[2]
    everyone, out, mark = np.arange(n), np.empty(n), np.full(n, -1)
    for row in range(block.shape[1]):
        query = begin + row
        if not first <= query < last or not real[query]:
            continue
        if inside[0, x, query] or inside[1, x, query]:
            _fuse(block[:, :, :last], row, query, head, end, residual, out[:last])
            _marked(query, x * n + query, tails, keys, mark)
            _cross_row(
                query, last, everyone, out, x, inside, first, last, sink, source, mark, found, row
            )


@njit(nogil=True, cache=True)
def cross_sparse(
    starts: np.ndarray, entries: np.ndarray, values: np.ndarray, begin: int,
    x: int, inside: np.ndarray, first: int, last: int, sink: int, source: int,
    tails: np.ndarray, keys: np.ndarray, found: Found,
) -> None:  # fmt: skip
    """As `cross_dense` for rows of edge weights in compressed form."""
    n = inside.shape[2]
    mark = np.full(n, -1)
    for row in range(len(starts) - 1):
        query, low, high = begin + row, starts[row], starts[row + 1]
        if first <= query < last and (inside[0, x, query] or inside[1, x, query]):
            _marked(query, x * n + query, tails, keys, mark)
            _cross_row(
                query, high - low, entries[low:high], values[low:high], x, inside, first, last,
                sink, source, mark, found, row,
            )  # fmt: skip
