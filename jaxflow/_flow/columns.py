"""Which sinks a row of the table is worked out for, and what each of them looks at.

Statement: once a sink has been brought to its bound by all sources of one layer, it stays there in
every layer above (T2): with ``low`` and ``peak`` the least and the largest of their flows and r the
sum of a source's row above, that source gets at least ``low min(1, r / peak)`` by taking from each
token below a share of its flow, and at most ``min(column, r)``. Where a table holds all sources,
such sinks are absorbed: they leave the lanes, and the others close up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxflow._flow.compiled import bare, counting
from jaxflow._flow.lanes import LANES, space
from jaxflow._flow.sentence import Sentence, lifts_at

__all__ = ["CLOSE", "Columns", "absorb", "all_columns", "new_columns"]

# A flow this close to an upper bound is taken for the bound.
CLOSE = 1e-12


class Columns(NamedTuple):
    """What the lanes read, one sink a column: parts of a sentence's arrays, or copies of them.

    With `layer` that of the sources and x the upper one of the layers that are swept:

    Attributes
    ----------
    sinks
        ``[width]``: the sink of each column; how many there are is told apart.
    bottom
        ``[n, width]``: what each node can send to the sink from where the sweep ends.
    lower, back
        ``[n, width]``: layer x - 1 (layer 1 for three layers in all) as it is and turned.
    upper
        ``[n, width]``: layer x.
    lowest, highest
        ``[n, width]``: layers 0 and `layer` - 1, for bounds.
    straight, into, strays, apart, ways
        See `Sentence`; ``[1, width]``, but ``[n + 1, width]`` and ``[n, width]`` for the last two.
    """

    sinks: np.ndarray
    bottom: np.ndarray
    lower: np.ndarray
    back: np.ndarray
    upper: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    straight: np.ndarray
    into: np.ndarray
    strays: np.ndarray
    apart: np.ndarray
    ways: np.ndarray


@counting
def new_columns(n: int, width: int) -> Columns:
    """Return room for copies."""
    return Columns(
        np.zeros(width, np.int64), space((n, width)), space((n, width)),
        space((n, width)), space((n, width)), space((n, width)), space((n, width)),
        space((1, width)), space((1, width)), space((1, width)),
        space((n + 1, width)), space((n, width)),
    )  # fmt: skip


@bare
def all_columns(sentence: Sentence, layer: int, sinks: np.ndarray) -> Columns:
    """Return the columns of all sinks for sources of `layer`, 2 or higher."""
    edges, lifts = sentence.edges, lifts_at(layer)
    x = min(lifts + 2, layer)
    return Columns(
        sinks, sentence.demands[lifts], edges[x - 1], sentence.turned[x - 1], edges[x], edges[0],
        edges[layer - 1], sentence.straight[x - 1 : x], sentence.into[:1],
        sentence.strays[layer - 2 : layer - 1], sentence.apart, sentence.ways[layer],
    )  # fmt: skip


@counting
def absorb(
    sentence: Sentence, layer: int, below: np.ndarray, whole: Columns, chosen: Columns
) -> int:
    """Copy the columns of the sinks that `layer` still has to be asked for; return how many.

    `below` ``[n, n]`` holds the flows of all sources of the layer below.
    """
    n, count = len(below), 0
    sends = sentence.out[layer].max()
    for sink in range(n):
        low, peak = below[:, sink].min(), below[:, sink].max()
        reached = low * min(1.0, sends / max(peak, 1e-300))
        if reached < min(sentence.into[0, sink], sends) - CLOSE:
            chosen.sinks[count] = sink
            count += 1
    for column in range(count):
        sink = chosen.sinks[column]
        chosen.straight[0, column] = whole.straight[0, sink]
        chosen.into[0, column] = whole.into[0, sink]
        chosen.strays[0, column] = whole.strays[0, sink]
    end = (count + LANES - 1) // LANES * LANES
    chosen.straight[0, count:end] = chosen.into[0, count:end] = chosen.strays[0, count:end] = 0.0
    _choose(whole.bottom, chosen.sinks, count, chosen.bottom)
    _choose(whole.lower, chosen.sinks, count, chosen.lower)
    _choose(whole.back, chosen.sinks, count, chosen.back)
    _choose(whole.upper, chosen.sinks, count, chosen.upper)
    _choose(whole.lowest, chosen.sinks, count, chosen.lowest)
    _choose(whole.highest, chosen.sinks, count, chosen.highest)
    _choose(whole.apart, chosen.sinks, count, chosen.apart)
    if sentence.causal[0]:
        _choose(whole.ways, chosen.sinks, count, chosen.ways)
    return count


@bare
def _choose(every: np.ndarray, sinks: np.ndarray, count: int, chosen: np.ndarray) -> None:
    end = (count + LANES - 1) // LANES * LANES
    for i in range(len(every)):
        for column in range(count):
            chosen[i, column] = every[i, sinks[column]]
        chosen[i, count:end] = 0.0
