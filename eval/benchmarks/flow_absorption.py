"""Tables of all sources with and without absorption: what the layer below already settles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.workers import flow_tables
from jaxflow.attention import edge_weights
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, over_parts, take_turns

__all__ = ["WITH", "WITHOUT", "compare_absorption"]

WITH = "jaxflow kernel, all sources"
WITHOUT = "jaxflow kernel, all sources, without absorption"


def compare_absorption(attention: NDArray[np.float64], kind: str, budget: Budget) -> Comparison:
    """Fill the tables of all sources of ``[S, L, H, n, n]``, a sentence at a time.

    The kernel looks at the layer below where the sources are all tokens in their order. Asked for
    them in reverse it does the same work without.
    """
    sentences, depth, n = len(attention), attention.shape[1], attention.shape[-1]
    layers = tuple(range(depth))
    forward, backward = tuple(range(n)), tuple(range(n))[::-1]
    budget = dataclasses.replace(budget, seconds=budget.seconds / sentences)
    parts = []
    for sentence in attention:
        edges = np.asarray(edge_weights(sentence))
        exact = flow_tables(edges, layers, backward, 1)

        contenders = [
            Contender(
                WITH, partial(flow_tables, edges, layers, forward, 1), _error(exact[:, ::-1]), True
            ),
            Contender(
                WITHOUT, partial(flow_tables, edges, layers, backward, 1), _error(exact), True
            ),
        ]
        parts.append(take_turns(contenders, budget))
    return Comparison(
        benchmark="flow",
        work=f"{kind} attention, {depth} layers, {n} tokens, float64: the {depth * n * n} flows of "
        f"all sources, {sentences} sentence{'s' if sentences > 1 else ''} one by one",
        settings={
            "measure": "absorption",
            "attention": kind,
            "layers": depth,
            "tokens": n,
            "sentences": sentences,
        },
        reference="the kernel without absorption",
        timings=tuple(over_parts(parts)),
        notes=(
            "without: the same kernel asked for the same sources in reverse order, in which it "
            "does not look at the layer below",
        ),
    )


def _error(exact: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], float]:
    return lambda table: float(np.abs(table - exact).max())
