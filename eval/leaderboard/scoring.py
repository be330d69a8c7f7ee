"""What every method says of every token, batch after batch, and how long it takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.edges import EdgeWeight, Trace, normalise, propagations
from jaxflow.eval.leaderboard.cases import Batch, Cases, batches
from jaxflow.eval.leaderboard.methods import GRADIENTS, NORMALISED, REMOVALS, aggregators_of
from jaxflow.eval.leaderboard.programs import RESIDUAL, Programs, aggregation, tokens_at_once
from jaxflow.eval.score.readout import flow_at, flow_of_tops_at
from jaxflow.models import Model

__all__ = ["Scores", "score_cases"]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What every method says of S sentences of up to n tokens.

    Attributes
    ----------
    values
        Method -> float32 ``[S, L, n]``, L = 1 where it says something only once; 0 at padding.
    seconds
        Method -> seconds a sentence, compiling left out. That of an aggregator but flow is that of
        its edge weight through all of them.
    left_out
        Edge weight or other method -> why it could not be worked out.
    bounds
        Edge weight -> float32 ``[S, n]``, the sum of each token's column of capacities in layer 1,
        more than which no flow brings there.
    """

    values: Mapping[str, NDArray[np.float32]]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    bounds: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)


class _Clock:
    """Adds up seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[..., Any], *given: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = jax.block_until_ready(work(*given, **options))
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        return result


class _Table:
    """Every method's scores, filled batch by batch."""

    def __init__(self, cases: Cases) -> None:
        self.shape = cases.tokens.shape
        self.values: dict[str, NDArray[np.float32]] = {}

    def put(self, name: str, batch: Batch, found: Any) -> None:
        """Keep ``[B, L, n]`` or ``[B, n]`` of a batch."""
        found = np.asarray(found, np.float32)
        found = found if found.ndim == 3 else found[:, None]
        if name not in self.values:
            count, width = self.shape
            self.values[name] = np.zeros((count, found.shape[1], width), np.float32)
        self.values[name][batch.rows, :, : found.shape[2]] = found[: len(batch.rows)]


def score_cases(
    model: Model,
    cases: Cases,
    *,
    programs: Programs | None = None,
    seed: int = 0,
    threads: int | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Scores:
    """Let every method score every token.

    Parameters
    ----------
    model
        A model with classes.
    cases
        The sentences.
    programs
        Of another model of the same configuration, to be used again.
    seed
        Of the random baseline; drawn by sentence, so that neither batch nor order matter.
    threads
        For flow; None takes all cores.
    report
        Called with what is being done, how much of it, and of how much.

    Returns
    -------
    Scores
        What cannot be served by this model is left out, with the reason.
    """
    programs = Programs(model) if programs is None else programs
    plan = list(batches(cases, tokens_at_once()))
    programs.compile(model.params, plan, lambda done, total: report("compiling", done, total))
    table, bounds, clock = _Table(cases), _Table(cases), _Clock()
    done = 0
    for batch in plan:
        shape, given = batch.tokens.shape, (batch.tokens, batch.mask, batch.labels)
        trace = clock("trace", programs["trace", shape], model.params, *given)
        trace = dataclasses.replace(trace, special=jnp.asarray(batch.special))
        for edge in programs.edges.values():
            if edge.name not in programs.refused:
                _score_edge(edge, trace, batch, programs, table, bounds, clock, threads)
        for name in propagations():
            if name not in programs.refused:
                found = clock(name, programs[name, shape], trace, batch.readout)
                table.put(name, batch, found)
        for name in (*GRADIENTS, *REMOVALS):
            if name not in programs.refused:
                table.put(name, batch, clock(name, programs[name, shape], model.params, *given))
        for name, found in _baselines(batch, seed).items():
            table.put(name, batch, found)
        done += len(batch.rows)
        report("scoring", done, len(cases))
    if model.config.reads_last:
        _normalise(table, cases)
    seconds = _seconds(clock.seconds, table.values, len(cases))
    sums = {name: values[:, 0] for name, values in bounds.values.items()}
    return Scores(table.values, seconds, dict(programs.refused), sums)


def _score_edge(
    edge: EdgeWeight,
    trace: Trace,
    batch: Batch,
    programs: Programs,
    table: _Table,
    bounds: _Table,
    clock: _Clock,
    threads: int | None,
) -> None:
    """Follow one edge weight down by every aggregator."""
    shape = batch.tokens.shape
    edges, below = clock(edge.name, programs[edge.name, shape], trace)
    combine = programs[aggregation(edge.residual, below is not None), shape]
    found, tops, rest = clock(edge.name, combine, edges, below, batch.mask, batch.readout)
    told = aggregators_of(edge)
    for how, scores in found.items():
        if how in told:
            table.put(f"{edge.name}/{how}", batch, scores)
    tops = np.asarray(tops)
    # Of the layer as others above it see it.
    bound = (tops if rest is None else np.asarray(rest))[:, 0].sum(-2)
    bounds.put(edge.name, batch, bound)
    if edge.name == "raw":
        table.put("column-sum", batch, bound)
    name = f"{edge.name}/flow"
    if rest is None:
        options: dict[str, Any] = {"residual": 0, "threads": threads}
        flowing = clock(name, flow_at, tops[:, :, None], batch.readout, batch.mask, **options)
    else:
        given = (tops, np.asarray(rest), batch.readout, batch.mask)
        flowing = clock(name, flow_of_tops_at, *given, threads=threads)
    table.put(name, batch, flowing)


def _normalise(table: _Table, cases: Cases) -> None:
    """Divide a causal model's attention by what its readout's place alone explains."""
    for how, normalised in NORMALISED.items():
        scores = table.values[f"raw/{how}"]
        found = np.zeros_like(scores)
        for place in np.unique(cases.readout):
            these = np.flatnonzero(cases.readout == place)
            some = scores[these][:, :, None]  # [S', L, 1, n]
            options: dict[str, Any] = {"residual": RESIDUAL, "sources": [int(place)]}
            found[these] = np.asarray(normalise(some, how, **options))[:, :, 0]
        table.values[f"raw/{normalised}"] = found


def _baselines(batch: Batch, seed: int) -> dict[str, NDArray]:
    """Return what needs no model, ``[B, n]``."""
    n = batch.tokens.shape[1]
    random = np.zeros(batch.tokens.shape)
    for place, row in enumerate(batch.rows):
        random[place] = np.random.default_rng([seed, int(row)]).random(n)
    found = {
        "random": random,
        "position": np.broadcast_to(1.0 + np.arange(n), random.shape),
        "uniform": np.ones_like(random),
    }
    return {name: np.where(batch.mask, scores, 0) for name, scores in found.items()}


def _seconds(
    by_part: Mapping[str, float], values: Mapping[str, Any], count: int
) -> dict[str, float]:
    """Return seconds a sentence of every method: its forward pass, its weights, its flow."""
    found = {}
    for name in values:
        edge, _, how = name.partition("/")
        if how or name in propagations():
            flowing = by_part[f"{edge}/flow"] if how.startswith("flow") else 0.0
            total = by_part["trace"] + by_part[edge] + flowing
        else:
            total = by_part.get(name, 0.0)
        found[name] = total / count
    return found
