"""Lifted demands: the lowest layers folded into one, once for all sources and layers.

Statement: if every node k of a layer can send ``E[k]`` to the sink, all at the same time, then a
flow that brings at most ``E[k]`` to each k goes on to the sink as a whole. And what a source's mass
becomes when it is rolled out downwards fits every arc on its way, as long as no token passes on
more than it got, which a row whose sum is a little above 1, as in float32, would do. Deep graphs
are so cut down to two layers between a rolled out supply and a lifted demand.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow.compiled import bare
from jaxflow._flow.lanes import (
    LANES,
    broadcast,
    least,
    load,
    lowered,
    most,
    raised,
    spread,
    store,
)

__all__ = ["TINY", "lifted", "passed_on", "rolled"]

# Keeps quotients of an empty sum finite.
TINY = 1e-300


@bare
def lifted(
    layer: np.ndarray,
    turned: np.ndarray,
    into: np.ndarray,
    demand: np.ndarray,
    share: np.ndarray,
    result: np.ndarray,
) -> None:
    """Write what each node above `layer` can send to each sink, given the demands below it.

    `turned` is `layer` with queries and keys exchanged, `into` its column sums; `demand` and
    `result` ``[n, width]`` hold one sink a column. Each node i shares its demand out among the arcs
    into it, in proportion to them, but for the one from the sink's own node t, which gets what the
    others cannot take: a source has much to send to many nodes, but little to t.
    """
    n, width = demand.shape
    one, zero, tiny = spread(1.0), spread(0.0), spread(TINY)
    for column in range(0, width, LANES):
        straight = zero
        for i in range(n):
            wish, arc = load(demand, i, column), load(turned, i, column)
            others = most(spread(into[i]) - arc, zero)
            part = least(one, wish / (others + tiny))
            store(share, i, 0, part)
            straight = straight + least(arc, most(lowered(wish, part, others), zero))
        store(share, n, 0, straight)
        for k in range(n):
            total = zero
            for i in range(n):
                total = raised(total, broadcast(layer, k, i), load(share, i, 0))
            store(result, k, column, total)
        for lane in range(min(LANES, n - column)):
            result[column + lane, column + lane] = share[n, lane]


@bare
def passed_on(mass: float, out: float) -> float:
    """Return the share of a token's arcs that its mass fills, `out` being what they carry."""
    return 1.0 if mass >= out else mass / out


@bare
def rolled(line: np.ndarray, layer: np.ndarray, out: np.ndarray, result: np.ndarray) -> None:
    """Write where the mass `line` comes to lie one layer further down; `out` holds row sums.

    `line` and `result` are ``[1, width]``.
    """
    for column in range(0, layer.shape[1], LANES):
        mass = spread(0.0)
        for j in range(len(layer)):
            share = passed_on(line[0, j], out[j])
            mass = raised(mass, spread(share), load(layer, j, column))
        store(result, 0, column, mass)
