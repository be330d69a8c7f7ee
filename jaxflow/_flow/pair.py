"""One pair to the end: where no bound was met, replay the passes and search what is left."""

from __future__ import annotations

import numpy as np

from jaxflow._flow.compiled import bare
from jaxflow._flow.lift import rolled
from jaxflow._flow.network import Network, open_masks
from jaxflow._flow.replay import replay_one_layer, replay_two_layers, unlift, unroll
from jaxflow._flow.search import augment
from jaxflow._flow.sentence import Sentence, lifts_at
from jaxflow._flow.sweep import rank

__all__ = ["roll_down", "solve_pair"]


@bare
def roll_down(
    sentence: Sentence, layer: int, source: int, last: int, lines: np.ndarray, order: np.ndarray
) -> None:
    """Write the source's mass at the nodes of each layer below it, as far as it is needed.

    And the order in which the nodes that the sweep goes through are to be visited.
    """
    edges = sentence.edges
    for key in range(edges.shape[2]):
        lines[layer - 1, key] = edges[layer, source, key]
    low = 0 if layer < 3 else lifts_at(layer) + 1
    for x in range(layer - 1, low, -1):
        rolled(lines[x : x + 1], edges[x], sentence.out[x], lines[x - 1 : x])
    rank(lines[low if layer > 2 else layer - 1], source, last, order)


@bare
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
    """Return the flow from (layer, source), layer >= 1, to the sink; `net` is left as it ends.

    The source is ``order[0]``; only nodes from `first` to before `last` are on a way to the sink.
    ``lines[x]`` is the source's mass rolled down to the nodes of layer x (`lift.rolled`). Stops
    early where `bound` is met.
    """
    edges, turned, into, demands = (
        sentence.edges, sentence.turned, sentence.into, sentence.demands
    )  # fmt: skip
    top = layer - 1
    lifts = lifts_at(layer)
    middle = min(lifts + 2, top)
    net.supply[0] = 0.0
    net.demand[0] = 0.0
    for i in range(first, last):
        net.supply[0, i] = lines[middle, i]
        net.demand[0, i] = demands[lifts, i, sink]
    if top == 0:
        sent = 0.0
    elif top == 1:
        sent = replay_one_layer(net, order, sink, first, last, edges[1])
    else:
        sent = replay_two_layers(
            net, order, sink, first, last, middle, turned[middle], edges[middle - 1]
        )
    for x in range(middle + 1, top + 1):
        unroll(net, first, last, x, lines[x], lines[x - 1], edges[x], sentence.out[x])
    for x in range(lifts, 0, -1):
        unlift(net, sink, first, last, x, demands[x], demands[x - 1], edges[x], into[x])
    if sent < bound:
        for x in range(1, top + 1):
            open_masks(net, first, last, x, turned[x] if net.turned[x] else edges[x])
        sent = augment(net, edges, top, sent, bound)
    return sent
