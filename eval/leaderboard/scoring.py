"""Score every token by every method, batch after batch, and measure each method's time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.edges import (
    AGGREGATORS,
    EdgeWeight,
    Trace,
    edge_weights,
    normalise,
    propagate,
    propagations,
)
from jaxflow.edges._aggregate import capacities, combine
from jaxflow.edges.registry import weigh_checked
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Cases, batches, grouped
from jaxflow.eval.leaderboard.methods import NORMALISED, aggregators_of
from jaxflow.eval.score.engine import (
    GRADIENTS,
    REMOVALS,
    flow_at,
    flow_of_tops_at,
    gradient_scores,
    removal_scores,
    rows_at,
)
from jaxflow.eval.score.target import Scoring, class_logit, scoring_of
from jaxflow.models import Model
from jaxflow.models.tracing import tracer, visible_tokens

RESIDUAL = 0.5

Shape = tuple[int, ...]
Report = Callable[[str, int, int], None]


def tokens_at_once() -> int:
    """Return how many tokens a batch should have for a model.

    A processor is fastest while a batch's activations stay in its cache; an accelerator wants much.
    """
    return 2_048 if jax.default_backend() == "cpu" else 131_072


class Programs:
    """Compiled programs of one configuration, for all training seeds of a model.

    `scoring` is the target of gradients and the replacement of blank-out; `edges` are the edge
    weights that are scored, by name; `refused` maps an edge weight, propagation or other method to
    why the model cannot serve it, known once programs are compiled.
    """

    #: Methods that the others are correlated with -> what the measures call them.
    references: Mapping[str, str] = {"blank-out": "blank_out", "gradient-norm": "gradient"}

    def __init__(self, model: Model, scoring: Scoring | None = None) -> None:
        self.scoring = scoring_of(model) if scoring is None else scoring
        self._key = _key(model)
        self._of_model = {name: jax.jit(f) for name, f in _functions(model, self.scoring).items()}
        self.edges: Mapping[str, EdgeWeight] = edge_weights(model.config.heads)
        self.refused: dict[str, str] = {}
        self._compiled: dict[tuple[str, Shape], Any] = {}

        def classify(params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            logits: Any = model.module.apply(params, tokens, mask, method="classify")
            return jax.nn.softmax(logits)

        self.classify = jax.jit(classify)

    def score(self, model: Model, cases: Cases, **options: Any) -> Scores:
        """Score every token by every method, as `score_cases`."""
        return score_cases(model, cases, self, **options)

    def set_values(
        self,
        model: Model,
        cases: Cases,
        sets: list[NDArray[np.uint64]],
        report: Callable[[int, int], None],
    ) -> list[NDArray[np.float64]]:
        """Return the class's probability for sets of kept tokens, as `set_probabilities`."""
        return set_probabilities(
            lambda tokens, mask: np.asarray(self.classify(model.params, tokens, mask)),
            cases,
            sets,
            self.scoring.token_id,
            at_once=tokens_at_once(),
            report=report,
        )

    def fit(self, model: Model) -> bool:
        """Return whether the programs are those of a model."""
        return _key(model) == self._key

    def __getitem__(self, key: tuple[str, Shape]) -> Callable[..., Any]:
        """Return a program by its name and the shape of the tokens."""
        return cast(Callable[..., Any], self._compiled[key])

    def compile(
        self, params: Any, plan: Sequence[Cases], report: Callable[[int, int], None]
    ) -> None:
        """Compile all programs for the batches' shapes, several at a time."""
        firsts = {batch.tokens.shape: batch for batch in reversed(plan)}
        shapes = [shape for shape in firsts if ("trace", shape) not in self._compiled]
        waiting: dict[tuple[str, Shape], Future[Any]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for shape in shapes:
                for name, trace in self.traces(params, firsts[shape]).items():
                    if name in self.refused:
                        continue
                    try:
                        waiting[name, shape] = pool.submit(trace().lower().compile)
                    except InputError as error:
                        self.refused[name] = str(error)
            for done, (key, future) in enumerate(waiting.items(), start=1):
                self._compiled[key] = future.result()
                report(done, len(waiting))

    def traces(self, params: Any, batch: Cases) -> dict[str, Callable[[], Any]]:
        """Return functions that trace each program for a batch."""
        given = (params, batch.tokens, batch.mask, batch.labels)
        abstract = jax.eval_shape(self._of_model["trace"], *given)
        boolean = jax.ShapeDtypeStruct(batch.special.shape, jnp.bool_)
        trace = dataclasses.replace(abstract, special=boolean)
        *front, _, n, _ = trace.attention.shape  # [B, L, H, n, n]
        edges = jax.ShapeDtypeStruct((*front, n, n), jnp.float32)
        found: dict[str, Callable[[], Any]] = {
            name: partial(function.trace, *given) for name, function in self._of_model.items()
        }
        for name, edge in self.edges.items():
            found[name] = partial(jax.jit(partial(_weigh, edge)).trace, trace)
        for held, below in ((False, None), (True, None), (False, edges)):
            function = jax.jit(partial(_aggregate, held))
            name = _aggregation(held, below is not None)
            found[name] = partial(function.trace, edges, below, batch.mask, batch.readout)
        for name, each in propagations().items():
            function = jax.jit(
                lambda trace, readout, each=each: rows_at(propagate(trace, each), readout)
            )
            found[name] = partial(function.trace, trace, batch.readout)
        return found


def _functions(model: Model, scoring: Scoring) -> dict[str, Callable[..., Any]]:
    """Return ``trace`` and every method of `GRADIENTS` and `REMOVALS`.

    Each is a function of parameters, tokens ``[B, n]``, their mask and the classes ``[B]``. One
    that the model cannot serve raises `InputError` when it is called.
    """

    def trace(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> Trace:
        return tracer(model.config, class_logit(labels))(params, tokens, mask)

    def gradient(name: str, *given: Any) -> jax.Array:
        return gradient_scores((name,), model.module.apply, scoring, *given)[name]

    def removal(name: str, *given: Any) -> jax.Array:
        return removal_scores(name, model, scoring, *given)

    return {
        "trace": trace,
        **{name: partial(gradient, name) for name in GRADIENTS},
        **{name: partial(removal, name) for name in REMOVALS},
    }


def _key(model: Model) -> tuple[Any, ...]:
    text = model.text
    return (model.config, text.unk_id, text.mask_id, text.pad_id)


def _aggregation(held: bool, below: bool) -> str:
    """Return the name of the program that combines layers."""
    return f"aggregate {held} {below}"


def _weigh(edge: EdgeWeight, trace: Trace) -> tuple[jax.Array, jax.Array | None]:
    """Return the edges of all layers, and those of a layer below others where they differ."""
    return weigh_checked(trace, edge)


def _aggregate(
    held: bool, edges: jax.Array, below: jax.Array | None, mask: jax.Array, readout: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array | None]:
    """Return the readout's ``[B, L, n]`` by every aggregator but flow, and flow's capacities."""
    options: dict[str, Any] = {"held": held, "residual": RESIDUAL, "mask": mask}
    found: dict[str, jax.Array] = {
        how: combine(edges, how, below=below, rows=readout[:, None], **options)[:, :, 0]
        for how in AGGREGATORS
        if how != "flow" and not (held and how == "product")
    }
    rest = None if below is None else capacities(below, **options)
    return found, capacities(edges, **options), rest


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of S sentences of up to n tokens by every method.

    The seconds of an aggregator but flow are those of its edge weight through all of them. The
    bounds are the sums of each token's column of capacities in layer 1: no flow to it is above.
    """

    values: Mapping[str, NDArray[np.float32]]  # method -> [S, L, n], L = 1 without layers; 0: pads
    seconds: Mapping[str, float]  # method -> seconds a sentence, compiling left out
    left_out: Mapping[str, str]  # edge weight or other method -> why it could not be computed
    bounds: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)  # [S, n]


class _Board:
    """Every method's scores and bounds, filled batch by batch, and seconds by name."""

    def __init__(self, cases: Cases, causal: bool) -> None:
        self.shape, self.causal = cases.tokens.shape, causal
        self.values: dict[str, NDArray[np.float32]] = {}
        self.bounds: dict[str, NDArray[np.float32]] = {}
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, work: Callable[..., Any], *given: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = jax.block_until_ready(work(*given, **options))
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        return result

    def put(self, name: str, rows: NDArray[np.int64], found: Any, *, bound: bool = False) -> None:
        """Store ``[B, L, n]`` or ``[B, n]`` of a batch."""
        into = self.bounds if bound else self.values
        found = np.asarray(found, np.float32)
        found = found if found.ndim == 3 else found[:, None]
        if name not in into:
            count, width = self.shape
            into[name] = np.zeros((count, found.shape[1], width), np.float32)
        into[name][rows, :, : found.shape[2]] = found[: len(rows)]


def score_cases(
    model: Model,
    cases: Cases,
    programs: Programs,
    *,
    seed: int = 0,
    threads: int | None = None,
    report: Report = lambda what, done, total: None,
) -> Scores:
    """Score every token by every method; parameters as in `jaxflow.eval.leaderboard.board`.

    What this model cannot serve is left out, with the reason.
    """
    plan = list(batches(cases, tokens_at_once()))
    programs.compile(
        model.params,
        [batch for _, batch in plan],
        lambda done, total: report("compiling", done, total),
    )
    board = _Board(cases, model.config.reads_last)
    done = 0
    for rows, batch in plan:
        shape, given = batch.tokens.shape, (batch.tokens, batch.mask, batch.labels)
        trace = board.timed("trace", programs["trace", shape], model.params, *given)
        trace = dataclasses.replace(trace, special=jnp.asarray(batch.special))
        for edge in programs.edges.values():
            if edge.name not in programs.refused:
                _score_edge(edge, trace, rows, batch, programs, board, threads)
        for name in propagations():
            if name not in programs.refused:
                found = board.timed(name, programs[name, shape], trace, batch.readout)
                board.put(name, rows, found)
        for name in (*GRADIENTS, *REMOVALS):
            if name not in programs.refused:
                found = board.timed(name, programs[name, shape], model.params, *given)
                board.put(name, rows, found)
        for name, found in baselines(batch, rows, seed).items():
            board.put(name, rows, found)
        done += len(rows)
        report("scoring", done, len(cases))
    if model.config.reads_last:
        _normalise(board, cases, visible_tokens(model.config, cases.tokens.shape[1]))
    seconds = _seconds(board.seconds, board.values, len(cases))
    bounds = {name: values[:, 0] for name, values in board.bounds.items()}
    return Scores(board.values, seconds, dict(programs.refused), bounds)


def _score_edge(
    edge: EdgeWeight,
    trace: Trace,
    rows: NDArray[np.int64],
    batch: Cases,
    programs: Programs,
    board: _Board,
    threads: int | None,
) -> None:
    """Combine one edge weight over the layers by every aggregator."""
    shape = batch.tokens.shape
    edges, below = board.timed(edge.name, programs[edge.name, shape], trace)
    combined = programs[_aggregation(edge.residual, below is not None), shape]
    given = (edges, below, batch.mask, batch.readout)
    found, tops, rest = board.timed(edge.name, combined, *given)
    kept = aggregators_of(edge)
    for how, scores in found.items():
        if how in kept:
            board.put(f"{edge.name}/{how}", rows, scores)
    tops = np.asarray(tops)
    # The edges of the layer when it is below others.
    bound = (tops if rest is None else np.asarray(rest))[:, 0].sum(-2)
    board.put(edge.name, rows, bound, bound=True)
    if edge.name == "raw":
        board.put("column-sum", rows, bound)
        if board.causal:
            last = tops[np.arange(len(tops)), -1, batch.readout]
            board.put("suffix", rows, np.cumsum(last[:, ::-1], -1)[:, ::-1] * batch.mask)
    if rest is None:
        flow = partial(flow_at, tops[:, :, None], residual=0)
    else:
        flow = partial(flow_of_tops_at, tops, np.asarray(rest))
    name, options = f"{edge.name}/flow", {"threads": threads}
    board.put(name, rows, board.timed(name, flow, batch.readout, batch.mask, **options))


def _normalise(board: _Board, cases: Cases, visible: jax.Array | None) -> None:
    """Divide a causal model's attention by its readout's receptive field."""
    for how, normalised in NORMALISED.items():
        scores = board.values[f"raw/{how}"]
        found = np.zeros_like(scores)
        for place in np.unique(cases.readout):
            these = np.flatnonzero(cases.readout == place)
            some = scores[these][:, :, None]  # [S', L, 1, n]
            options: dict[str, Any] = {
                "residual": RESIDUAL,
                "sources": [int(place)],
                "visible": visible,
            }
            found[these] = np.asarray(normalise(some, how, **options))[:, :, 0]
        board.values[f"raw/{normalised}"] = found


def baselines(batch: Cases, rows: NDArray[np.int64], seed: int) -> dict[str, NDArray]:
    """Return the baselines' scores ``[B, n]``; random scores are drawn by sentence."""
    n = batch.tokens.shape[1]
    random = np.zeros(batch.tokens.shape)
    for place, row in enumerate(rows):
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


def set_probabilities(
    predict: Callable[[NDArray[np.int32], NDArray[np.bool_]], NDArray[np.floating]],
    cases: Cases,
    sets: list[NDArray[np.uint64]],
    blank: int,
    *,
    at_once: int = 2048,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.float64]]:
    """Return the class's probability for sets of kept tokens, a float64 array for each sentence.

    `predict` maps tokens ``[B, n]`` and their mask to probabilities ``[B, C]`` and is called with
    one B for each length, of about `at_once` tokens. `sets` are, for each of the sentences, bits
    over its removable tokens, each set once; `blank` replaces a removed token. `report` is called
    with the sets done and their number.
    """
    found = [np.empty(len(each)) for each in sets]
    # A row for each set: its sentence, its place in the result, and its bits.
    owner = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    place = np.concatenate([np.arange(len(each)) for each in sets])
    bits = np.concatenate(sets)
    lengths = (-(-cases.lengths // 4) * 4)[owner]
    done = 0
    for rows, filled, n in grouped(lengths, cases.tokens.shape[1], lambda n: max(1, at_once // n)):
        batch = cases.take(owner[filled], n)
        can = batch.removable
        number = (np.cumsum(can, axis=-1) - 1).clip(0).astype(np.uint64)
        stays = (bits[filled][:, None] >> number) & np.uint64(1)
        tokens = np.where(can & (stays == 0), blank, batch.tokens).astype(np.int32)
        probabilities = np.asarray(predict(tokens, batch.mask), np.float64)
        values = probabilities[np.arange(len(rows)), batch.labels[: len(rows)]]
        for row, value in zip(rows, values, strict=True):
            found[owner[row]][place[row]] = value
        done += len(rows)
        report(done, len(owner))
    return found
