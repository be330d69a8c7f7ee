"""Attention flow against other solvers: the whole table of one token, graph building included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.attention import check_attention, edge_weights
from jaxflow.eval.benchmarks import flow_peers
from jaxflow.eval.benchmarks.attentions import synthetic_attention, trained_attention
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns

__all__ = ["FULL", "QUICK", "FlowPlan", "FlowWork", "run_flow"]

OWN = "jaxflow.flow, 1 thread"

# networkx needs about 10 microseconds for an arc in a flow; beyond these it would take minutes.
_EDMONDS_KARP = 6 * 26
_PREFLOW_PUSH = 6 * 26

# Sentences in one call, and the most numbers that their attention may have.
_BATCH = 64
_BATCH_NUMBERS = 8_000_000


@dataclasses.dataclass(frozen=True)
class FlowWork:
    """A table to fill: kind of attention (``trained`` needs a run), layers, tokens."""

    kind: str
    layers: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class FlowPlan:
    """What the flow benchmark does.

    Attributes
    ----------
    works
        The tables of one sentence that every solver fills.
    batch
        The same for many sentences, one thread against all cores.
    sentences
        Size of that batch.
    growth
        Tokens of the tables from which the growth of time is fitted, or none.
    budget
        Time for each contender.
    """

    works: tuple[FlowWork, ...]
    batch: FlowWork = FlowWork("bert-like", 6, 20)
    sentences: int = 64
    growth: tuple[int, ...] = ()
    budget: Budget = dataclasses.field(default_factory=Budget)


_SMALL = tuple(FlowWork(kind, 6, 9) for kind in ("diffuse", "peaky", "bert-like", "causal"))
QUICK = FlowPlan(works=(*_SMALL, FlowWork("bert-like", 6, 20)))
FULL = FlowPlan(
    works=(
        *_SMALL,
        *(FlowWork(kind, 6, 20) for kind in ("diffuse", "peaky", "bert-like", "causal")),
        FlowWork("bert-like", 6, 44),
        FlowWork("bert-like", 12, 64),
        FlowWork("bert-like", 12, 128),
        FlowWork("causal", 12, 128),
    ),
    sentences=256,
    growth=(16, 32, 64, 128, 192),
    budget=Budget(seconds=8.0),
)


def run_flow(plan: FlowPlan, run: Path | None = None) -> Iterator[Comparison]:
    """Yield one comparison after the other.

    Raises
    ------
    InputError
        If the run has no attention to give.
    """
    for work in plan.works:
        yield _one_sentence(work, plan.budget, run)
    yield _batch(plan, run)
    if len(plan.growth) > 1:
        yield _growth(plan)


def _attention(work: FlowWork, sentences: int, run: Path | None) -> NDArray[np.float64]:
    if work.kind == "trained":
        assert run is not None
        return trained_attention(run, work.tokens, sentences=sentences)
    return synthetic_attention(work.kind, work.layers, work.tokens, sentences=sentences)


def _one_sentence(work: FlowWork, budget: Budget, run: Path | None) -> Comparison:
    attention = _attention(work, 1, run)[0]
    layers, n = attention.shape[0], attention.shape[-1]
    # A decoder is read at its last token: the first one sees nothing but itself.
    source = n - 1 if work.kind == "causal" else 0
    edges = np.asarray(edge_weights(attention))
    solvers, missing = flow_peers.optional_peers()
    limits = {
        "networkx preflow_push": (flow_peers.preflow_push, _PREFLOW_PUSH),
        "networkx edmonds_karp": (flow_peers.edmonds_karp, _EDMONDS_KARP),
    }
    for name, (slow, limit) in limits.items():
        if layers * n <= limit:
            solvers[name] = slow
        else:
            missing[name] = "left out, too slow for this size"
    for solver in solvers.values():
        solver(np.full((1, 2, 2), 0.5), 0)  # what it imports is no part of its time
    reference, exact = _reference(solvers, edges, source)

    def error(table: NDArray[np.float64]) -> float:
        assert exact is not None
        return float(np.abs(table.reshape(-1, *exact.shape) - exact).max())

    measure = None if exact is None else error
    contenders = [
        Contender(OWN, lambda: jaxflow.flow(attention, sources=source, threads=1), measure, True),
        Contender(
            "of it checks, head fusion and residual",
            lambda: edge_weights(check_attention(attention)[0]),
        ),
        Contender("one copy of the edges: the floor", lambda: edges.copy()),
    ]
    copies = min(_BATCH, _BATCH_NUMBERS // attention.size)
    if copies > 1:
        many = np.repeat(attention[None], copies, 0)
        contenders.insert(
            1,
            Contender(
                f"jaxflow.flow, 1 thread, one of a batch of {copies}",
                lambda: jaxflow.flow(many, sources=source, threads=1),
                measure,
                True,
                copies,
            ),
        )
    contenders += [
        Contender(name, partial(solver, edges, source), measure) for name, solver in solvers.items()
    ]
    return Comparison(
        benchmark="flow",
        work=f"{work.kind} attention, {layers} layers, {n} tokens: {layers * n} flows of token "
        f"{source}",
        settings={**_settings(work, layers), "sentences": 1, "source": source},
        reference=reference,
        timings=tuple(take_turns(contenders, budget)),
        missing=missing,
        notes=(
            "jaxflow starts from the attention (checks, head fusion and residual included), peers "
            "from finished edge weights; each builds its own graphs, on one thread; the batch is "
            "the same sentence over and over",
        ),
    )


def _reference(
    solvers: dict[str, flow_peers.Solver], edges: NDArray[np.float64], source: int
) -> tuple[str, NDArray[np.float64] | None]:
    """Take the first solver in float64 that can do this size, outside of the timing."""
    for name in ("networkx preflow_push", "igraph", "OR-tools"):
        if name in solvers:
            return name, solvers[name](edges, source)
    return "", None


def _batch(plan: FlowPlan, run: Path | None) -> Comparison:
    attention = _attention(plan.batch, plan.sentences, run)
    alone = jaxflow.flow(attention, sources=0, threads=1)

    def error(table: NDArray[np.float64]) -> float:
        return float(np.abs(table - alone).max())

    contenders = [
        Contender(OWN, lambda: jaxflow.flow(attention, sources=0, threads=1), error, True),
        Contender(
            "jaxflow.flow, all cores", lambda: jaxflow.flow(attention, sources=0), error, True
        ),
        Contender(
            "of it checks, head fusion and residual",
            lambda: edge_weights(check_attention(attention)[0]),
        ),
    ]
    return Comparison(
        benchmark="flow",
        work=f"{plan.batch.kind} attention, {len(attention)} sentences of {attention.shape[-1]} "
        f"tokens, {attention.shape[1]} layers: [CLS] tables",
        settings={**_settings(plan.batch, attention.shape[1]), "sentences": len(attention)},
        reference="one thread",
        timings=tuple(take_turns(contenders, plan.budget)),
    )


def _growth(plan: FlowPlan) -> Comparison:
    def contender(n: int) -> Contender:
        attention = synthetic_attention("bert-like", 6, n)[0]
        return Contender(
            f"{n} tokens", lambda: jaxflow.flow(attention, sources=0, threads=1), compiles=True
        )

    timings = take_turns([contender(n) for n in plan.growth], plan.budget)
    slope, _ = np.polyfit(np.log(plan.growth), np.log([timing.seconds for timing in timings]), 1)
    return Comparison(
        benchmark="flow",
        work="bert-like attention, 6 layers: growth of the [CLS] table's time with the tokens",
        settings={"attention": "bert-like", "layers": 6, "tokens": plan.growth, "slope": slope},
        reference="",
        timings=tuple(timings),
        notes=(f"time grows with the tokens to the power of {slope:.2f} (log-log slope)",),
    )


def _settings(work: FlowWork, layers: int) -> dict[str, Any]:
    return {"attention": work.kind, "layers": layers, "tokens": work.tokens}
