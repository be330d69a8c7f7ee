"""One sentence's graph, laid out once for all pairs: the arrays every stage reads.

Statement: whatever depends on neither source nor layer is worked out once per sentence, at the cost
of a few readings of its edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxflow._flow.closed import two_steps
from jaxflow._flow.compiled import bare, counting
from jaxflow._flow.lanes import LANES, load, space, spread, store, total
from jaxflow._flow.lift import lifted

__all__ = ["Sentence", "lay_out", "lifts_at", "new_sentence"]


class Sentence(NamedTuple):
    """A sentence's edges and what follows from them.

    Attributes
    ----------
    causal
        ``[1]``: whether no token draws on a later one, in any layer.
    edges
        ``[L, n, width]``: edge weights, columns filled up with 0 to whole lanes.
    turned
        ``[L, n, width]``: the same with queries and keys exchanged, from layer 1 up.
    into
        ``[L, width]``: column sums.
    out
        ``[L, n]``: row sums, 1 but for rounding.
    strays
        ``[L, width]``: column sums without the diagonal, added up from layer 0.
    straight
        ``[L, width]``: diagonals.
    apart
        ``[n + 1, width]``: 1 where row and column are different tokens, 0 where they are one.
    ways
        ``[L, n, width]``, causal only: at most this much of a node's flow gets to a sink, were all
        nodes below it its own.
    demands
        ``[3, n, width]``: what each node can send to each sink from layer 0, 1 and 2 (`lift`).
    share
        ``[n + 1, LANES]``: work space of `lifted`.
    """

    causal: np.ndarray
    edges: np.ndarray
    turned: np.ndarray
    into: np.ndarray
    out: np.ndarray
    strays: np.ndarray
    straight: np.ndarray
    apart: np.ndarray
    ways: np.ndarray
    demands: np.ndarray
    share: np.ndarray


@counting
def _apart(n: int, width: int) -> np.ndarray:
    apart = space((n + 1, width))
    apart[:] = 1.0
    for token in range(n):
        apart[token, token] = 0.0
    return apart


@counting
def new_sentence(layers: int, n: int, width: int) -> Sentence:
    """Return room for a sentence of so many layers and tokens."""
    return Sentence(
        np.zeros(1, np.bool_),
        space((layers, n, width)),
        space((layers, n, width)),
        space((layers, width)),
        space((layers, n)),
        space((layers, width)),
        space((layers, width)),
        _apart(n, width),
        space((layers, n, width)),
        space((3, n, width)),
        space((n + 1, LANES)),
    )


@bare
def lifts_at(layer: int) -> int:
    """Return by how many layers the demands are lifted for a source of `layer`."""
    return 0 if layer <= 3 else (1 if layer <= 4 else 2)


@bare
def _is_causal(weights: np.ndarray, top: int) -> bool:
    """Say whether no token draws on a later one in any layer up to `top`."""
    n = weights.shape[1]
    for layer in range(top + 1):
        for query in range(n):
            for key in range(query + 1, n):
                if weights[layer, query, key] != 0.0:
                    return False
    return True


@bare
def _copy(plane: np.ndarray, to: np.ndarray) -> None:
    for i in range(len(plane)):
        for column in range(0, plane.shape[1], LANES):
            store(to, i, column, load(plane, i, column))


@bare
def lay_out(sentence: Sentence, weights: np.ndarray, top: int) -> None:
    """Fill in a sentence's arrays up to layer `top` from its weights ``[L, n, n]``."""
    n, width = weights.shape[1], sentence.edges.shape[2]
    edges, turned, into, strays = sentence.edges, sentence.turned, sentence.into, sentence.strays
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
            store(into, layer, column, sums)
        for query in range(n):
            sums = load(plane, query, 0)
            for column in range(LANES, width, LANES):
                sums = sums + load(plane, query, column)
            sentence.out[layer, query] = total(sums)
        if layer > 0:
            for query in range(n):
                for key in range(n):
                    turned[layer, key, query] = plane[query, key]
        for key in range(n):
            sentence.straight[layer, key] = plane[key, key]
            strays[layer, key] = into[layer, key] - plane[key, key]
            if layer > 0:
                strays[layer, key] += strays[layer - 1, key]
    if sentence.causal[0]:
        # Elsewhere this bound is never the least and not worth its n^3 steps.
        _copy(edges[0], sentence.ways[0])
        for layer in range(1, top + 1):
            for column in range(0, edges.shape[2], LANES):
                for query in range(column, n):
                    reaching = two_steps(
                        edges[layer, query], sentence.ways[layer - 1], column, query + 1, column
                    )
                    store(sentence.ways[layer], query, column, reaching)
    demands = sentence.demands
    _copy(edges[0], demands[0])
    for layer in range(lifts_at(top)):
        lifted(
            edges[layer + 1], turned[layer + 1], into[layer + 1], demands[layer],
            sentence.share, demands[layer + 1],
        )  # fmt: skip
