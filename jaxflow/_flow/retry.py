"""Retry the blocking-flow pass, prioritising nodes with residual supply or unmet demand.

Any order of sending is feasible, and a pass that did not reach the bound indicates a better one:
nodes with residual supply are processed earlier, and every node sends to unmet demands before the
others. The few sinks for which a pass over one layer has failed are packed together first, so that
all lanes are in use. One or two retries avoid most of the searches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxflow._flow.layout import CLOSE, TINY, Sentence
from jaxflow._flow.parts import maker, part, zero_ints, zeros
from jaxflow._flow.simd import (
    LANES,
    Lanes,
    at_least,
    broadcast,
    exceeds,
    least,
    load,
    lowered,
    most,
    raised,
    spread,
    store,
)
from jaxflow._flow.sweep import LEAST, residual_cut

# How often a pass is retried, as long as more than so many sinks are left: a search of a few costs
# less than another pass.
ROUNDS, FEW = 3, 1


class Pack(NamedTuple):
    """Sinks of one row that a pass has failed for, one in each lane."""

    size: np.ndarray  # [1]: how many there are
    sinks: np.ndarray  # [LANES]
    bottom: np.ndarray  # [n, LANES]: what each node of layer 0 can give to the sink
    own: np.ndarray  # [n, LANES]: what each node of layer 1 can give to the sink's node of layer 0
    residual: np.ndarray  # [n, LANES]: 1 where a node of layer 1 had supply left in any pass, or 0
    unmet: np.ndarray  # [n, LANES]: 1 where a node of layer 0 had demand left in any pass, or 0
    bound: np.ndarray  # [1, LANES]: the least bound so far
    sent: np.ndarray  # [1, LANES]: the largest flow so far
    supply: np.ndarray  # [n, LANES]: what the last pass has left
    demand: np.ndarray  # [n, LANES]
    straight: np.ndarray  # [1, LANES]: what the sink's own node can give to it
    beyond: np.ndarray  # [n, LANES]: see `residual_cut`


@maker
def new_pack(memory: Any, n: int) -> Pack:
    """Return an empty pack for sentences of n tokens."""
    return Pack(
        zero_ints(memory, (1,)), zero_ints(memory, (LANES,)),
        zeros(memory, (n, LANES)), zeros(memory, (n, LANES)), zeros(memory, (n, LANES)),
        zeros(memory, (n, LANES)), zeros(memory, (1, LANES)), zeros(memory, (1, LANES)),
        zeros(memory, (n, LANES)), zeros(memory, (n, LANES)), zeros(memory, (1, LANES)),
        zeros(memory, (n, LANES)),
    )  # fmt: skip


@part
def add(
    pack: Pack,
    sentence: Sentence,
    sink: int,
    first: int,
    last: int,
    lane: int,
    demand: np.ndarray,
    bound: float,
    sent: float,
) -> None:
    """Add a sink; `demand` holds what the pass, from `first` on, has left in its `lane`."""
    edges, at = sentence.edges, pack.size[0]
    pack.size[0] += 1
    pack.sinks[at], pack.bound[0, at], pack.sent[0, at] = sink, bound, sent
    # All rows up to the last, not from the first only: another sink's may be further up.
    for i in range(last):
        pack.bottom[i, at] = edges[0, i, sink]
        pack.own[i, at] = edges[1, i, sink]
        pack.residual[i, at] = 0.0
        pack.unmet[i, at] = i >= first and demand[i, lane] > LEAST


@part
def retry(
    pack: Pack, sentence: Sentence, row: np.ndarray, order: np.ndarray, first: int, last: int
) -> int:
    """Retry until the sinks' flows meet their bounds; empty the pack.

    `row` is the source's, nodes from `first` to before `last` are on a path. Returns the mask of
    the lanes in which the two met; ``pack.bound`` holds the bounds.
    """
    count = pack.size[0]
    pack.size[0] = 0
    everyone = (1 << count) - 1
    for lane in range(count, LANES):
        pack.bottom[first:last, lane] = 0.0
    done = 0
    for _ in range(ROUNDS):
        left = 0
        for lane in range(count):
            left += 1 - (done >> lane & 1)
        if left <= FEW:
            break
        sent = most(load(pack.sent, 0, 0), _pass(pack, row, order, sentence.edges[1], first, last))
        store(pack.sent, 0, 0, sent)
        cut = residual_cut(
            row, sentence, pack.bottom, order[0], first, last, 0, pack.supply, pack.beyond
        )
        bound = least(cut, load(pack.bound, 0, 0))
        store(pack.bound, 0, 0, bound)
        done = at_least(sent, bound - spread(CLOSE))
        for i in range(first, last):
            store(pack.residual, i, 0, most(load(pack.residual, i, 0), load(pack.supply, i, 0)))
            unmet = exceeds(load(pack.demand, i, 0), spread(LEAST))
            store(pack.unmet, i, 0, most(load(pack.unmet, i, 0), unmet))
    return done & everyone


@part
def _pass(
    pack: Pack, row: np.ndarray, order: np.ndarray, arcs: np.ndarray, first: int, last: int
) -> Lanes:
    """Send `row` over one layer as `sweep_one_layer` does, in another order; return what arrives.

    First from the nodes with residual supply, then from the others; from each first to the sink's
    own node, then to the unmet demands, then to the others, in proportion to what these can take.
    """
    residual, unmet, supply, demand = pack.residual, pack.unmet, pack.supply, pack.demand
    for i in range(first, last):
        store(demand, i, 0, load(pack.bottom, i, 0))
        store(supply, i, 0, spread(row[i]))
    for lane in range(LANES):
        demand[pack.sinks[lane], lane] = 0.0
        pack.straight[0, lane] = pack.bottom[pack.sinks[lane], lane]
    own = load(pack.straight, 0, 0)
    sent, zero, tiny, one = spread(0.0), spread(0.0), spread(TINY), spread(1.0)
    for phase in range(2):
        for turn in range(last):
            j = order[turn]
            if j < first:
                continue
            now = load(residual, j, 0)
            if phase:
                now = one - now
            if at_least(now, one) == 0:
                continue
            served, others = zero, zero
            for i in range(first, last):
                out = least(load(demand, i, 0), broadcast(arcs, j, i))
                others = others + out
                served = raised(served, out, load(unmet, i, 0))
            others = most(others - served, zero)
            to_own = least(own, load(pack.own, j, 0))
            have = load(supply, j, 0)
            passed = least(have * now, others + served + to_own)
            store(supply, j, 0, have - passed)
            sent = sent + passed
            to_own = least(to_own, passed)
            own = own - to_own
            passed = passed - to_own
            used = least(served, passed)
            # With no other demand left this is rounding, which must not be scaled up.
            rest = least(one, (passed - used) / (others + tiny))
            more = used / (served + tiny) - rest
            for i in range(first, last):
                wanted = load(demand, i, 0)
                share = raised(rest, more, load(unmet, i, 0))
                store(demand, i, 0, lowered(wanted, share, least(wanted, broadcast(arcs, j, i))))
    return sent
