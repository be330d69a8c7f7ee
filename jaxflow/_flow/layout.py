"""Prepare one sentence's graph for the kernel: arrays shared by all its sources and layers.

Everything that depends on neither source nor layer is computed once per sentence. Two of these
results reduce a deep graph to two layers:

* *Lifted demands*: if every node k of a layer can send ``E[k]`` to the sink, all at the same time,
  then a flow that brings at most ``E[k]`` to each k continues to the sink as a whole.
* *Rolled mass*: a source's mass, multiplied down the layers as in rollout, fits within the capacity
  of every arc, unless a row's sum is slightly above 1, as in float32.

`Columns` are the sinks that a row of the table is computed for. Once a sink has been brought to its
bound by all sources of one layer, it stays there in every layer above (T2 in docs/flow.md): with
``low`` and ``peak`` the least and the largest of their flows and r the sum of a source's row above,
that source gets at least ``low min(1, r / peak)``, and at most ``min(column, r)``. Where a table
holds all sources, such sinks are no longer computed (`absorb`): only the others fill the lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxflow._flow.parts import larger, maker, part, smaller, zero_flags, zero_ints, zeros
from jaxflow._flow.simd import (
    LANES,
    Lanes,
    broadcast,
    least,
    load,
    lowered,
    most,
    raised,
    spread,
    store,
    total,
)

# Added to denominators, so that a quotient of an empty sum is finite.
TINY = 1e-300
# A flow this close to an upper bound counts as equal to it.
CLOSE = 1e-12


class Sentence(NamedTuple):
    """A sentence's edges and what follows from them; columns are filled up to whole lanes."""

    causal: np.ndarray  # [1]: whether no token attends to a later one, in any layer
    edges: np.ndarray  # [L, n, width]: edge weights
    transposed: np.ndarray  # [L, n, width]: queries and keys exchanged, from layer 1 up
    column_sums: np.ndarray  # [L, width]
    row_sums: np.ndarray  # [L, n]: 1 but for rounding
    off_diagonal: np.ndarray  # [L, width]: column sums without the diagonal, summed from layer 0
    diagonal: np.ndarray  # [L, width]
    different: np.ndarray  # [n + 1, width]: 1 where row and column are different tokens, else 0
    # [L, n, width], causal only: an upper bound, the flow if all nodes below were the node's own.
    causal_bound: np.ndarray
    demands: np.ndarray  # [3, n, width]: what nodes can send to each sink from layer 0, 1 and 2
    share: np.ndarray  # [n + 1, LANES]: work space of `lifted`


class Columns(NamedTuple):
    """Inputs of the lanes, one sink a column: views of a sentence's arrays, or copies of them.

    `layer` is that of the sources, x the upper one of the layers that are swept.
    """

    sinks: np.ndarray  # [width]: the sink of each column; their number is stored separately
    bottom: np.ndarray  # [n, width]: what each node can send to the sink from below the sweep
    lower: np.ndarray  # [n, width]: layer x - 1 (layer 1 for three layers in all)
    back: np.ndarray  # [n, width]: the same, transposed
    upper: np.ndarray  # [n, width]: layer x
    lowest: np.ndarray  # [n, width]: layer 0, for bounds
    highest: np.ndarray  # [n, width]: layer `layer` - 1, for bounds
    diagonal: np.ndarray  # [1, width]: of layer x - 1
    column_sums: np.ndarray  # [1, width]: of layer 0
    off_diagonal: np.ndarray  # [1, width]: up to layer `layer` - 2
    different: np.ndarray  # [n + 1, width]: see `Sentence`
    causal_bound: np.ndarray  # [n, width]: of `layer`


@maker
def new_sentence(memory: Any, layers: int, n: int, width: int) -> Sentence:
    """Return empty arrays for a sentence of so many layers and tokens."""
    different = zeros(memory, (n + 1, width))
    for row in range(n + 1):
        for column in range(width):
            different[row, column] = 1.0 if row != column or row == n else 0.0
    return Sentence(
        zero_flags(memory, (1,)), zeros(memory, (layers, n, width)),
        zeros(memory, (layers, n, width)), zeros(memory, (layers, width)),
        zeros(memory, (layers, n)), zeros(memory, (layers, width)), zeros(memory, (layers, width)),
        different, zeros(memory, (layers, n, width)), zeros(memory, (3, n, width)),
        zeros(memory, (n + 1, LANES)),
    )  # fmt: skip


@part
def lifts_at(layer: int) -> int:
    """Return by how many layers the demands are lifted for a source of `layer`."""
    return 0 if layer <= 3 else (1 if layer <= 4 else 2)


@part
def two_steps(row: np.ndarray, below: np.ndarray, first: int, last: int, column: int) -> Lanes:
    """Return ``sum_j min(row[j], below[j, t])`` for the lanes t from `column` on.

    The flow over two layers, as every path of two edges has them to itself, and the cheapest way to
    cut all paths of two edges. Only nodes from `first` to before `last` are considered.
    """
    total = spread(0.0)
    for j in range(first, last):
        total = total + least(spread(row[j]), load(below, j, column))
    return total


@part
def _is_causal(weights: np.ndarray, top: int) -> bool:
    n = weights.shape[1]
    for layer in range(top + 1):
        for query in range(n):
            for key in range(query + 1, n):
                if weights[layer, query, key] != 0.0:
                    return False
    return True


@part
def _copy(plane: np.ndarray, to: np.ndarray) -> None:
    for i in range(len(plane)):
        for column in range(0, plane.shape[1], LANES):
            store(to, i, column, load(plane, i, column))


@part
def lay_out(sentence: Sentence, weights: np.ndarray, top: int) -> None:
    """Fill in a sentence's arrays up to layer `top` from its weights ``[L, n, n]``."""
    n, width = weights.shape[1], sentence.edges.shape[2]
    edges, transposed = sentence.edges, sentence.transposed
    column_sums, off_diagonal = sentence.column_sums, sentence.off_diagonal
    sentence.causal[0] = _is_causal(weights, top)
    for layer in range(top + 1):
        plane = edges[layer]
        for query in range(n):
            for key in range(n):
                plane[query, key] = weights[layer, query, key]
        for column in range(0, width, LANES):
            sums = spread(0.0)
            for query in range(n):
                sums = sums + load(plane, query, column)
            store(column_sums, layer, column, sums)
        for query in range(n):
            sums = load(plane, query, 0)
            for column in range(LANES, width, LANES):
                sums = sums + load(plane, query, column)
            sentence.row_sums[layer, query] = total(sums)
        if layer > 0:
            for query in range(n):
                for key in range(n):
                    transposed[layer, key, query] = plane[query, key]
        for key in range(n):
            sentence.diagonal[layer, key] = plane[key, key]
            off_diagonal[layer, key] = column_sums[layer, key] - plane[key, key]
            if layer > 0:
                off_diagonal[layer, key] += off_diagonal[layer - 1, key]
    if sentence.causal[0]:
        # Elsewhere this bound is never the least and not worth its n^3 steps.
        bound = sentence.causal_bound
        _copy(edges[0], bound[0])
        for layer in range(1, top + 1):
            for column in range(0, edges.shape[2], LANES):
                for query in range(column, n):
                    reaching = two_steps(
                        edges[layer, query], bound[layer - 1], column, query + 1, column
                    )
                    store(bound[layer], query, column, reaching)
    demands = sentence.demands
    _copy(edges[0], demands[0])
    for layer in range(lifts_at(top)):
        lifted(
            edges[layer + 1], transposed[layer + 1], column_sums[layer + 1], demands[layer],
            sentence.share, demands[layer + 1],
        )  # fmt: skip


@part
def lifted(
    layer: np.ndarray,
    transposed: np.ndarray,
    column_sums: np.ndarray,
    demand: np.ndarray,
    share: np.ndarray,
    result: np.ndarray,
) -> None:
    """Write what each node above `layer` can send to each sink, given the demands below it.

    `demand` and `result` ``[n, width]`` hold one sink a column. Each node i divides its demand
    among the arcs into it, in proportion to them, but for the one from the sink's own node t, which
    gets what the others cannot take: a source has much to send to many nodes, but little to t.
    """
    n, width = demand.shape
    one, zero, tiny = spread(1.0), spread(0.0), spread(TINY)
    for column in range(0, width, LANES):
        diagonal = zero
        for i in range(n):
            wanted, arc = load(demand, i, column), load(transposed, i, column)
            others = most(spread(column_sums[i]) - arc, zero)
            taken = least(one, wanted / (others + tiny))
            store(share, i, 0, taken)
            diagonal = diagonal + least(arc, most(lowered(wanted, taken, others), zero))
        store(share, n, 0, diagonal)
        for k in range(n):
            sums = zero
            for i in range(n):
                sums = raised(sums, broadcast(layer, k, i), load(share, i, 0))
            store(result, k, column, sums)
        for lane in range(smaller(LANES, n - column)):
            result[column + lane, column + lane] = share[n, lane]


@part
def passed_on(mass: float, row_sum: float) -> float:
    """Return a token's mass divided by the sum of its arcs, `row_sum`, at most 1."""
    return 1.0 if mass >= row_sum else mass / row_sum


@part
def rolled(lines: np.ndarray, x: int, layer: np.ndarray, row_sums: np.ndarray) -> None:
    """Write to ``lines[x - 1]`` the mass ``lines[x]`` after one layer further down."""
    for column in range(0, layer.shape[1], LANES):
        sums = spread(0.0)
        for j in range(len(layer)):
            share = passed_on(lines[x, j], row_sums[j])
            sums = raised(sums, spread(share), load(layer, j, column))
        store(lines, x - 1, column, sums)


@part
def _rank(values: np.ndarray, first: int, count: int, order: np.ndarray) -> None:
    """Write the places of the first `count` values: `first`, then the others, largest first."""
    order[0] = first
    for i in range(count):
        if i != first:
            at = i if i > first else i + 1
            while at > 1 and values[order[at - 1]] < values[i]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = i


@part
def roll_down(
    sentence: Sentence, layer: int, source: int, last: int, lines: np.ndarray, order: np.ndarray
) -> None:
    """Write the source's mass at the nodes of each layer below it to `lines` ``[L, width]``.

    Only as far down as it is needed. And the order of visiting the nodes of a sweep: the source's
    own, then those with the largest mass first, while there is still a choice of paths.
    """
    edges = sentence.edges
    for key in range(edges.shape[2]):
        lines[layer - 1, key] = edges[layer, source, key]
    low = 0 if layer < 3 else lifts_at(layer) + 1
    for x in range(layer - 1, low, -1):
        rolled(lines, x, edges[x], sentence.row_sums[x])
    _rank(lines[low if layer > 2 else layer - 1], source, last, order)


@maker
def new_columns(memory: Any, n: int, width: int) -> Columns:
    """Return empty arrays for copies."""
    return Columns(
        zero_ints(memory, (width,)), zeros(memory, (n, width)), zeros(memory, (n, width)),
        zeros(memory, (n, width)), zeros(memory, (n, width)), zeros(memory, (n, width)),
        zeros(memory, (n, width)), zeros(memory, (1, width)), zeros(memory, (1, width)),
        zeros(memory, (1, width)), zeros(memory, (n + 1, width)), zeros(memory, (n, width)),
    )  # fmt: skip


@part
def absorb(
    sentence: Sentence, layer: int, below: np.ndarray, whole: Columns, chosen: Columns
) -> int:
    """Copy the columns of the sinks still to be computed for `layer`; return how many.

    `below` ``[n, n]`` holds the flows of all sources of the layer below.
    """
    n, count = len(below), 0
    sends = 0.0
    for source in range(n):
        sends = larger(sends, sentence.row_sums[layer, source])
    for sink in range(n):
        low, peak = below[0, sink], below[0, sink]
        for source in range(1, n):
            low, peak = smaller(low, below[source, sink]), larger(peak, below[source, sink])
        reached = low * smaller(1.0, sends / larger(peak, 1e-300))
        if reached < smaller(sentence.column_sums[0, sink], sends) - CLOSE:
            chosen.sinks[count] = sink
            count += 1
    sinks = chosen.sinks
    _choose(whole.bottom, sinks, count, chosen.bottom)
    _choose(whole.lower, sinks, count, chosen.lower)
    _choose(whole.back, sinks, count, chosen.back)
    _choose(whole.upper, sinks, count, chosen.upper)
    _choose(whole.lowest, sinks, count, chosen.lowest)
    _choose(whole.highest, sinks, count, chosen.highest)
    _choose(whole.diagonal, sinks, count, chosen.diagonal)
    _choose(whole.column_sums, sinks, count, chosen.column_sums)
    _choose(whole.off_diagonal, sinks, count, chosen.off_diagonal)
    _choose(whole.different, sinks, count, chosen.different)
    if sentence.causal[0]:
        _choose(whole.causal_bound, sinks, count, chosen.causal_bound)
    return count


@part
def _choose(every: np.ndarray, sinks: np.ndarray, count: int, chosen: np.ndarray) -> None:
    end = (count + LANES - 1) // LANES * LANES
    for i in range(len(every)):
        for column in range(count):
            chosen[i, column] = every[i, sinks[column]]
        for column in range(count, end):
            chosen[i, column] = 0.0
