"""The table of one token, L·n flows, by the kernel, the whole call and every peer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.workers import flow_tables
from jaxflow.attention import edge_weights
from jaxflow.eval.benchmarks import flow_peers
from jaxflow.eval.benchmarks.figures import ratio_text, seconds_text
from jaxflow.eval.benchmarks.floor import floor_seconds
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, Timing, over_parts, take_turns

__all__ = [
    "BATCH",
    "CALL",
    "EDMONDS_KARP",
    "KERNEL",
    "PREFLOW_PUSH",
    "TableSetup",
    "compare_tables",
]

KERNEL = "jaxflow kernel, from edge weights"
BATCH = "jaxflow kernel, all sentences in one call"
CALL = "jaxflow.flow, the whole call"
EDMONDS_KARP = "networkx edmonds_karp"
PREFLOW_PUSH = "networkx preflow_push"

# Layers times tokens beyond which networkx takes minutes: 10 microseconds for an arc in a flow.
_NETWORKX = 6 * 26


@dataclasses.dataclass(frozen=True)
class TableSetup:
    """How tables are compared.

    Attributes
    ----------
    budget
        Time for each contender, all sentences together.
    bandwidth
        Of this machine's memory, bytes a second.
    slow_sentences
        How many of the sentences networkx does.
    limit
        Whether networkx is left out where it would take minutes.
    """

    budget: Budget
    bandwidth: float
    slow_sentences: int = 2
    limit: bool = True


def compare_tables(
    attention: NDArray[np.float64],
    source: int,
    kind: str,
    setup: TableSetup,
    *,
    left_out: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Comparison:
    """Let every solver fill the table of `source`, for one sentence after the other.

    Parameters
    ----------
    attention
        ``[S, L, H, n, n]`` float64: S different sentences.
    source
        The token whose flows are wanted.
    kind
        What attention it is, in a word.
    setup
        Time, bandwidth and limits.
    left_out
        Peer -> why it does not take part.
    settings
        Further settings to record.
    """
    sentences, layers, n = len(attention), attention.shape[1], attention.shape[-1]
    solvers, missing = _solvers(layers * n, setup.limit)
    missing |= {name: why for name, why in (left_out or {}).items() if name in solvers}
    for solver in solvers.values():
        solver(np.full((1, 2, 2), 0.5), 0)  # what it imports is no part of its time
    solvers = {name: solver for name, solver in solvers.items() if name not in missing}
    reference = _reference(solvers, layers * n)
    budget = dataclasses.replace(setup.budget, seconds=setup.budget.seconds / sentences)
    parts: list[list[Timing]] = []
    batch = np.asarray(edge_weights(attention))
    for place, edges in enumerate(batch):
        some = {
            name: solver
            for name, solver in solvers.items()
            if place < setup.slow_sentences or not name.startswith("networkx")
        }
        exact = solvers[reference](edges, source) if reference else None
        contenders = _contenders(attention[place], edges, source, some, exact)
        if sentences > 1:
            contenders.insert(1, _together(batch, place, source, exact))
        parts.append(take_turns(contenders, budget))
    timings = over_parts(parts)
    floor = floor_seconds(layers, n, setup.bandwidth)
    notes = [
        "the kernel and the peers start from finished edge weights, and each builds its own "
        "graphs; all sentences in one call is the kernel's best set-up, its time that of one; the "
        "whole call starts from the attention: checks, head fusion and residual; all on one thread",
        f"floor, one read of {layers} x {n} x {n} doubles at {setup.bandwidth / 1e9:.3g} GB/s: "
        f"{seconds_text(floor)}; the kernel takes {ratio_text(timings[0].seconds / floor)} that",
    ]
    notes += [
        f"{timing.name}: {len(timing.parts)} of the {sentences} sentences"
        for timing in timings
        if len(timing.parts) < sentences
    ]
    return Comparison(
        benchmark="flow",
        work=f"{kind} attention, {layers} layers, {n} tokens: the {layers * n} flows of token "
        f"{source}, {sentences} sentence{'s' if sentences > 1 else ''} one by one",
        settings={
            "measure": "table",
            "attention": kind,
            "layers": layers,
            "tokens": n,
            "sentences": sentences,
            "source": source,
            "bandwidth": setup.bandwidth,
            "floor_seconds": floor,
            **(settings or {}),
        },
        reference=reference,
        timings=tuple(timings),
        missing=missing,
        notes=tuple(notes),
    )


def _solvers(size: int, limit: bool) -> tuple[dict[str, flow_peers.Solver], dict[str, str]]:
    solvers, missing = flow_peers.optional_peers()
    for name, slow in (
        (PREFLOW_PUSH, flow_peers.preflow_push),
        (EDMONDS_KARP, flow_peers.edmonds_karp),
    ):
        if limit and size > _NETWORKX:
            missing[name] = "left out, too slow for this size"
        else:
            solvers[name] = slow
    return solvers, missing


def _reference(solvers: Mapping[str, flow_peers.Solver], size: int) -> str:
    """Take an exact solver in float64 that can do this size."""
    order = ("igraph", PREFLOW_PUSH, "OR-tools")
    if size <= _NETWORKX:
        order = (PREFLOW_PUSH, "igraph", "OR-tools")
    return next((name for name in order if name in solvers), "")


def _contenders(
    attention: NDArray[np.float64],
    edges: NDArray[np.float64],
    source: int,
    solvers: Mapping[str, flow_peers.Solver],
    exact: NDArray[np.float64] | None,
) -> list[Contender]:
    def error(table: NDArray[np.float64]) -> float:
        assert exact is not None
        return float(np.abs(table.reshape(exact.shape) - exact).max())

    measure = None if exact is None else error
    layers = tuple(range(len(edges)))
    return [
        Contender(KERNEL, lambda: flow_tables(edges, layers, (source,), 1), measure, True),
        Contender(CALL, lambda: jaxflow.flow(attention, sources=source, threads=1), measure, True),
        *(
            Contender(name, partial(solver, edges, source), measure)
            for name, solver in solvers.items()
        ),
    ]


def _together(
    batch: NDArray[np.float64], place: int, source: int, exact: NDArray[np.float64] | None
) -> Contender:
    """Have the kernel do all sentences at once, its best set-up: one call instead of many."""

    def error(tables: NDArray[np.float64]) -> float:
        assert exact is not None
        return float(np.abs(tables[place, :, 0] - exact).max())

    layers = tuple(range(batch.shape[1]))
    return Contender(
        BATCH,
        lambda: flow_tables(batch, layers, (source,), 1),
        None if exact is None else error,
        True,
        len(batch),
    )
