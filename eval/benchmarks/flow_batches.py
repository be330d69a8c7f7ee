"""Many sentences in one call: threads, what the call costs around the kernel, a test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.table import graph_edges
from jaxflow._flow.workers import flow_tables
from jaxflow.eval.benchmarks.attentions import KINDS, synthetic_attention
from jaxflow.eval.benchmarks.flow_table import CALL, KERNEL
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns

__all__ = [
    "AROUND",
    "THREADS",
    "compare_calls",
    "compare_corpus",
    "compare_threads",
    "mixed_attention",
]

AROUND = "jaxflow.flow up to the kernel: checks, head fusion, residual"
THREADS = {
    (KERNEL, 1): f"{KERNEL}, 1 thread",
    (KERNEL, 2): f"{KERNEL}, 2 threads",
    (CALL, 1): f"{CALL}, 1 thread",
    (CALL, 2): f"{CALL}, 2 threads",
}

Attention = NDArray[np.floating]


def compare_threads(attention: Attention, kind: str, different: int, budget: Budget) -> Comparison:
    """Fill the ``[CLS]`` tables of ``[B, L, H, n, n]`` on one thread and on two.

    `different` says how many of the sentences are.
    """
    edges = graph_edges(attention, 0.5, "mean", None)[0]
    alone = _kernel(edges, 1)
    contenders = [
        Contender(THREADS[KERNEL, 1], lambda: _kernel(edges, 1), _error(alone), True),
        Contender(THREADS[KERNEL, 2], lambda: _kernel(edges, 2), _error(alone), True),
        Contender(THREADS[CALL, 1], lambda: _call(attention, 1), _error(alone), True),
        Contender(THREADS[CALL, 2], lambda: _call(attention, 2), _error(alone), True),
    ]
    return _comparison("threads", attention, kind, different, contenders, budget)


def compare_calls(attention: Attention, kind: str, different: int, budget: Budget) -> Comparison:
    """Take the call on ``[B, L, H, n, n]`` apart: the kernel, and what is around it."""
    edges = graph_edges(attention, 0.5, "mean", None)[0]
    alone = _kernel(edges, 1)
    contenders = [
        Contender(KERNEL, lambda: _kernel(edges, 1), _error(alone), True),
        Contender(CALL, lambda: _call(attention, 1), _error(alone), True),
        Contender(AROUND, lambda: graph_edges(attention, 0.5, "mean", None)),
    ]
    return _comparison("call", attention, kind, different, contenders, budget)


def compare_corpus(groups: Sequence[Attention], kind: str, budget: Budget) -> Comparison:
    """Fill the ``[CLS]`` tables of sentences of many lengths, a call for each length.

    Parameters
    ----------
    groups
        For every length ``[B, L, H, n, n]``.
    kind, budget
        What attention it is, and the time.
    """
    edges = [graph_edges(group, 0.5, "mean", None)[0] for group in groups]
    sentences = sum(len(group) for group in groups)
    lengths = [group.shape[-1] for group in groups]
    contenders = [
        Contender(KERNEL, lambda: [_kernel(some, 1) for some in edges], compiles=True),
        Contender(CALL, lambda: [_call(group, 1) for group in groups], compiles=True),
    ]
    return Comparison(
        benchmark="flow",
        work=f"{kind} attention, {sentences} sentences of {min(lengths)} to {max(lengths)} tokens "
        f"grouped by length, {groups[0].shape[1]} layers: [CLS] tables, 1 thread",
        settings={
            "measure": "corpus",
            "attention": kind,
            "layers": groups[0].shape[1],
            "tokens": lengths,
            "sentences": sentences,
        },
        reference="",
        timings=tuple(take_turns(contenders, budget)),
        notes=(f"one call for each of {len(groups)} lengths, {groups[0].dtype} attention",),
    )


def mixed_attention(sentences: int, layers: int = 6) -> list[NDArray[np.float32]]:
    """Make up sentences of every kind and many lengths, as `compare_corpus` takes them."""
    rng = np.random.default_rng(0)
    lengths = np.clip(4 + rng.poisson(9, sentences), 5, 40)
    return [
        np.concatenate(
            [
                synthetic_attention(kind, layers, int(n), sentences=len(some))
                for kind, some in zip(
                    KINDS, np.array_split(np.empty(count), len(KINDS)), strict=True
                )
                if len(some)
            ]
        ).astype(np.float32)
        for n, count in zip(*np.unique(lengths, return_counts=True), strict=True)
    ]


def _kernel(edges: NDArray[np.float64], threads: int) -> NDArray[np.float64]:
    return flow_tables(edges, tuple(range(edges.shape[-3])), (0,), threads)


def _call(attention: Attention, threads: int) -> NDArray[np.float64]:
    return jaxflow.flow(attention, sources=0, threads=threads)


def _error(alone: NDArray[np.float64]) -> Any:
    return lambda table: float(np.abs(table - alone).max())


def _comparison(
    measure: str,
    attention: Attention,
    kind: str,
    different: int,
    contenders: list[Contender],
    budget: Budget,
) -> Comparison:
    sentences, layers, n = len(attention), attention.shape[1], attention.shape[-1]
    return Comparison(
        benchmark="flow",
        work=f"{kind} attention, {sentences} sentences of {n} tokens in one call, {layers} layers: "
        "[CLS] tables",
        settings={
            "measure": measure,
            "attention": kind,
            "layers": layers,
            "tokens": n,
            "sentences": sentences,
        },
        reference="the kernel on one thread",
        timings=tuple(take_turns(contenders, budget)),
        notes=(
            f"{attention.dtype} attention of {attention.shape[2]} heads, {different} different "
            "sentences",
        ),
    )
