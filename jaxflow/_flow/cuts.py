"""Minimum cuts of many pairs, added up: the derivative of flow with respect to the edges.

Statement: raising the capacity of an edge raises the flow at the rate 1 if the edge is in every
minimum cut and 0 if it is in none. Where the cut is unique this is the derivative; elsewhere the
cut nearest to the source, which is taken here, gives one of its subgradients.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxflow._flow.bits import BIT, NONE
from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import LANES, space
from jaxflow._flow.network import Network, new_network
from jaxflow._flow.pair import roll_down, solve_pair
from jaxflow._flow.search import reach
from jaxflow._flow.sentence import lay_out, new_sentence

__all__ = ["add_cuts"]


@bare
def _reached(net: Network, layer: int, token: int) -> bool:
    return net.visited[layer, token >> 6] & (BIT << np.uint64(token & 63)) != NONE


@njit(nogil=True, cache=True)
def add_cuts(
    weights: np.ndarray,
    layers: np.ndarray,
    sources: np.ndarray,
    pulls: np.ndarray,
    result: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Add ``pulls[b, at, place, sink]`` to `result` at the edges of the pair's minimum cut.

    `weights` and `result` are ``[B, L, n, n]``, `pulls` ``[B, L', S, n]``; only sentences from
    `begin` to before `end`. Edges of weight 0 are no edges.
    """
    depth, n = weights.shape[1], weights.shape[2]
    width = (n + LANES - 1) // LANES * LANES
    sentence, net = new_sentence(depth, n, width), new_network(depth, n, width)
    lines, order = space((depth, width)), np.empty(n, np.int64)
    for b in range(begin, min(end, len(weights))):
        lay_out(sentence, weights[b], layers.max())
        into = result[b]
        for at in range(layers.size):
            layer = layers[at]
            for place in range(sources.size):
                source = sources[place]
                if layer > 0:
                    roll_down(sentence, layer, source, n, lines, order)
                for sink in range(n):
                    pull = pulls[b, at, place, sink]
                    if pull == 0.0:
                        continue
                    if layer == 0:
                        if weights[b, 0, source, sink] > 0.0:
                            into[0, source, sink] += pull
                        continue
                    solve_pair(net, sentence, layer, order, sink, 0, n, lines, np.inf)
                    reach(net, layer - 1, False)
                    for key in range(n):
                        if weights[b, layer, source, key] > 0.0 and not _reached(
                            net, layer - 1, key
                        ):
                            into[layer, source, key] += pull
                        if weights[b, 0, key, sink] > 0.0 and _reached(net, 0, key):
                            into[0, key, sink] += pull
                    for x in range(1, layer):
                        for query in range(n):
                            if not _reached(net, x, query):
                                continue
                            for key in range(n):
                                if weights[b, x, query, key] > 0.0 and not _reached(
                                    net, x - 1, key
                                ):
                                    into[x, query, key] += pull
