"""What scores a batch, compiled once for each length: shared by all seeds of a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.edges import AGGREGATORS, EdgeWeight, Trace, edge_weights, propagate, propagations
from jaxflow.edges._aggregate import capacities, combine
from jaxflow.edges.registry import weigh, weigh_below
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Batch
from jaxflow.eval.leaderboard.methods import GRADIENTS, REMOVALS
from jaxflow.eval.leaderboard.model_scores import model_functions
from jaxflow.eval.score.readout import rows_at
from jaxflow.models import Model

__all__ = ["RESIDUAL", "Programs", "tokens_at_once"]

RESIDUAL = 0.5

Shape = tuple[int, ...]


def tokens_at_once() -> int:
    """Return how many tokens a model is best given together where any number would do.

    A processor is fastest while a batch's activations stay in its cache; an accelerator wants much.
    """
    return 2_048 if jax.default_backend() == "cpu" else 131_072


class Programs:
    """Compiled programs of one configuration.

    Attributes
    ----------
    edges
        The edge weights that are scored, by name.
    refused
        Edge weight, propagation or other method -> why the model cannot serve it; known once
        programs are compiled.
    """

    def __init__(self, model: Model) -> None:
        self._key = _key(model)
        self._of_model = {name: jax.jit(each) for name, each in model_functions(model).items()}
        self.edges: Mapping[str, EdgeWeight] = edge_weights(model.config.heads)
        self.refused: dict[str, str] = {}
        self._compiled: dict[tuple[str, Shape], Any] = {}
        self.classify = jax.jit(partial(_classify, model.module.apply))

    def serve(self, model: Model) -> bool:
        """Whether they are those of a model."""
        return _key(model) == self._key

    def __getitem__(self, key: tuple[str, Shape]) -> Callable[..., Any]:
        """Return a program by its name and the shape of the tokens."""
        program: Callable[..., Any] = self._compiled[key]
        return program

    def compile(
        self,
        params: Any,
        batches: Iterable[Batch],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Compile all programs for the batches' shapes, several at a time.

        Parameters
        ----------
        params
            The model's parameters.
        batches
            One or more of each shape.
        report
            Called with the programs compiled and their number.
        """
        firsts = {batch.tokens.shape: batch for batch in reversed(list(batches))}
        shapes = [shape for shape in firsts if ("trace", shape) not in self._compiled]
        waiting: dict[tuple[str, Shape], Future[Any]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for shape in shapes:
                for name, lower in self._lowering(params, firsts[shape]).items():
                    if name in self.refused:
                        continue
                    try:
                        lowered = lower()
                    except InputError as error:
                        self.refused[name] = str(error)
                        continue
                    waiting[name, shape] = pool.submit(lowered.compile)
            for done, (key, future) in enumerate(waiting.items(), start=1):
                self._compiled[key] = future.result()
                report(done, len(waiting))

    def _lowering(self, params: Any, batch: Batch) -> dict[str, Callable[[], Any]]:
        """Return what lowers each program for a batch."""
        given = (params, batch.tokens, batch.mask, batch.labels)
        abstract = jax.eval_shape(self._of_model["trace"], *given)
        boolean = jax.ShapeDtypeStruct(batch.special.shape, jnp.bool_)
        trace = dataclasses.replace(abstract, special=boolean)
        edges = jax.ShapeDtypeStruct(_without_heads(trace.attention.shape), jnp.float32)
        found: dict[str, Callable[[], Any]] = {
            name: partial(function.lower, *given)
            for name, function in self._of_model.items()
            if name in ("trace", *GRADIENTS, *REMOVALS)
        }
        for name, edge in self.edges.items():
            found[name] = partial(jax.jit(partial(_weigh, edge)).lower, trace)
        for held, below in ((False, None), (True, None), (False, edges)):
            function = jax.jit(partial(_aggregate, held))
            name = aggregation(held, below is not None)
            found[name] = partial(function.lower, edges, below, batch.mask, batch.readout)
        for name, each in propagations().items():
            function = jax.jit(
                lambda trace, readout, each=each: rows_at(propagate(trace, each), readout)
            )
            found[name] = partial(function.lower, trace, batch.readout)
        return found


def aggregation(held: bool, below: bool) -> str:
    """Return the name of the program that combines layers."""
    return f"aggregate {held} {below}"


def _key(model: Model) -> tuple[Any, ...]:
    text = model.text
    return (model.config, text.unk_id, text.mask_id, text.pad_id)


def _without_heads(shape: Shape) -> Shape:
    return (*shape[:-3], *shape[-2:])


def _classify(
    apply: Callable[..., Any], params: Any, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    return jax.nn.softmax(apply(params, tokens, mask, method="classify"))


def _weigh(edge: EdgeWeight, trace: Trace) -> tuple[jax.Array, jax.Array | None]:
    """Return the edges of all layers, and what they hold below others where that differs."""
    return weigh(trace, edge), weigh_below(trace, edge)


def _aggregate(
    held: bool, edges: jax.Array, below: jax.Array | None, mask: jax.Array, readout: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array | None]:
    """Return the readout's ``[B, L, n]`` by every aggregator but flow, and flow's capacities."""
    options: dict[str, Any] = {"held": held, "residual": RESIDUAL, "mask": mask}
    found: dict[str, jax.Array] = {
        how: rows_at(combine(edges, how, below=below, **options), readout)
        for how in AGGREGATORS
        if how != "flow" and not (held and how == "product")
    }
    rest = None if below is None else capacities(below, **options)
    return found, capacities(edges, **options), rest
