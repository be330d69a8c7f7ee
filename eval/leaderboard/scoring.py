"""What every entrant says of every token, batch after batch, and how long it takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.edges import EdgeWeight, Propagation, Trace, propagate, propagations
from jaxflow.edges.aggregate import capacities, combine
from jaxflow.edges.catalogue import weigh
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Batch, Cases, batches
from jaxflow.eval.leaderboard.entrants import GRADIENTS, pairs
from jaxflow.eval.reading import blank_id
from jaxflow.eval.readout import flow_at, rows_at
from jaxflow.models import Model
from jaxflow.models.tracing import tracer

__all__ = ["Scores", "score_cases"]

RESIDUAL = 0.5
IG_STEPS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What every entrant says of S sentences of up to n tokens.

    Attributes
    ----------
    values
        Entrant -> float32 ``[S, L, n]``, L = 1 where it says something only once; 0 at padding.
    seconds
        Entrant -> seconds a sentence, compiling left out. That of an aggregator but flow is that of
        its edge weight through all of them.
    left_out
        Entrant -> why it could not be worked out.
    """

    values: Mapping[str, NDArray[np.float32]]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]


class _Clock:
    """Adds up seconds by name; programs are compiled before their time begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.compiled: dict[tuple[str, Any], Any] = {}

    def device(self, name: str, shape: Any, function: Callable[..., Any], *given: Any) -> Any:
        """Run a jitted function, compiled once for each name and shape."""
        if (name, shape) not in self.compiled:
            self.compiled[name, shape] = function.lower(*given).compile()  # type: ignore[attr-defined]
        return self.host(name, lambda: jax.block_until_ready(self.compiled[name, shape](*given)))

    def host(self, name: str, work: Callable[[], Any]) -> Any:
        """Run anything."""
        begun = time.perf_counter()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        return result


def score_cases(
    model: Model,
    cases: Cases,
    *,
    size: int = 128,
    seed: int = 0,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Let every entrant score every token.

    Parameters
    ----------
    model
        A model with classes.
    cases
        The sentences.
    size
        Sentences at once.
    seed
        Of the random baseline; drawn by sentence, so that neither batch nor order matter.
    threads
        For flow; None takes all cores.
    report
        Called with the sentences done and their number.

    Returns
    -------
    Scores
        What cannot be served by this model is left out, with the reason.
    """
    width = cases.tokens.shape[1]
    values: dict[str, NDArray[np.float32]] = {}
    left_out: dict[str, str] = {}
    clock, whole = _Clock(), _functions(model)

    def put(name: str, batch: Batch, found: Any) -> None:
        found = np.asarray(found, np.float32)
        found = found if found.ndim == 3 else found[:, None]
        if name not in values:
            values[name] = np.zeros((len(cases), found.shape[1], width), np.float32)
        values[name][batch.rows, :, : found.shape[2]] = found[: len(batch.rows)]

    def leave_out(name: str, error: InputError) -> None:
        """Take back what was scored of other lengths: half a column would be judged as zeros."""
        left_out[name] = str(error)
        for scored in [scored for scored in values if scored.partition("/")[0] == name]:
            del values[scored]

    done = 0
    for batch in batches(cases, size):
        shape, given = batch.tokens.shape, (batch.tokens, batch.mask, batch.labels)
        trace = clock.device("trace", shape, whole["trace"], model.params, *given)
        trace = dataclasses.replace(trace, special=jnp.asarray(batch.special))
        for edge in _edges(left_out):
            try:
                function = whole.setdefault(edge.name, _edge_function(edge))
                found = clock.device(edge.name, shape, function, trace, batch.readout)
            except InputError as error:
                leave_out(edge.name, error)
                continue
            rows = np.asarray(found.pop("capacities"))
            if edge.name == "raw":
                put("column-sum", batch, rows[:, 0].sum(-2))
            for how, scores in found.items():
                put(f"{edge.name}/{how}", batch, scores)
            flowing = clock.host(
                f"{edge.name}/flow",
                partial(
                    flow_at,
                    rows[:, :, None],
                    batch.readout,
                    batch.mask,
                    residual=0,
                    threads=threads,
                ),
            )
            put(f"{edge.name}/flow", batch, flowing)
        for each in propagations().values():
            if each.name in left_out:
                continue
            try:
                function = whole.setdefault(each.name, _propagation_function(each))
                found = clock.device(each.name, shape, function, trace, batch.readout)
            except InputError as error:
                leave_out(each.name, error)
                continue
            put(each.name, batch, found)
        for name in (*GRADIENTS, "blank-out"):
            found = clock.device(name, shape, whole[name], model.params, *given)
            put(name, batch, found)
        for name, found in _baselines(batch, seed).items():
            put(name, batch, found)
        done += len(batch.rows)
        report(done, len(cases))
    return Scores(values, _seconds(clock.seconds, values, len(cases)), left_out)


def _edges(left_out: Mapping[str, str]) -> list[EdgeWeight]:
    return [edge for edge in {e.name: e for e, _ in pairs()}.values() if edge.name not in left_out]


def _functions(model: Model) -> dict[str, Callable[..., Any]]:
    """Build what needs the model: its trace, gradients and blank-out, each jitted."""
    apply: Callable[..., Any] = model.module.apply
    blank = blank_id(model)

    def logit_of(labels: jax.Array) -> Callable[[jax.Array], jax.Array]:
        return lambda logits: jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

    def traced(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> Trace:
        return tracer(model.config, logit_of(labels))(params, tokens, mask)

    def of_gradient(kind: str) -> Callable[..., jax.Array]:
        def scores(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
            embeddings = apply(params, tokens, method="embed")

            def probability(given: jax.Array) -> jax.Array:
                logits = apply(params, given, mask, method="encode").logits
                return jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], -1)[:, 0]

            if kind == "gradient-norm":
                found = jaxflow.gradient_norm(probability, embeddings)
            elif kind == "gradient-sum":
                found = jnp.abs(jaxflow.input_gradient(probability, embeddings))
            elif kind == "gradient-x-input":
                found = jnp.abs(jaxflow.gradient_x_input(probability, embeddings))
            else:
                unknown = jnp.where(mask & (jnp.cumsum(mask, -1) > 1), blank, tokens)
                baseline = apply(params, unknown, method="embed")
                found = jnp.abs(
                    jaxflow.integrated_gradients(probability, embeddings, baseline, steps=IG_STEPS)
                )
            return jnp.where(mask, found, 0)

        return scores

    def blanked(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
        n = tokens.shape[1]

        def predict(rows: Any) -> jax.Array:
            every = mask if len(rows) == len(mask) else jnp.repeat(mask, n, axis=0)
            return jax.nn.softmax(apply(params, rows, every, method="classify"))

        found = jaxflow.blank_out(predict, tokens, blank, label=labels, mask=mask)
        return jnp.asarray(found)

    return {
        "trace": jax.jit(traced),
        "blank-out": jax.jit(blanked),
        **{name: jax.jit(of_gradient(name)) for name in GRADIENTS},
    }


def _edge_function(edge: EdgeWeight) -> Callable[[Trace, Any], dict[str, jax.Array]]:
    """Build ``(trace, readout [B]) -> aggregator -> [B, L, n]``, with ``capacities`` for flow."""

    @jax.jit
    def scores(trace: Trace, readout: jax.Array) -> dict[str, jax.Array]:
        edges = weigh(trace, edge)
        options: dict[str, Any] = {"held": edge.residual, "residual": RESIDUAL, "mask": trace.mask}
        found = {
            how: rows_at(combine(edges, how, **options), readout)
            for other, how in pairs()
            if other.name == edge.name and how != "flow"
        }
        return found | {"capacities": capacities(edges, **options)}

    return scores


def _propagation_function(each: Propagation) -> Callable[[Trace, Any], jax.Array]:
    """Build ``(trace, readout [B]) -> [B, L, n]``."""

    @jax.jit
    def scores(trace: Trace, readout: jax.Array) -> jax.Array:
        return rows_at(propagate(trace, each), readout)

    return scores


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
    """Return seconds a sentence of every entrant: its forward pass, its weights, its flow."""
    found = {}
    for name in values:
        edge, _, how = name.partition("/")
        if how or name in propagations():
            total = by_part["trace"] + by_part[edge] + (by_part[name] if how == "flow" else 0.0)
        else:
            total = by_part.get(name, 0.0)
        found[name] = total / count
    return found
