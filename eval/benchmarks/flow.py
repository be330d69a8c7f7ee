"""Time attention flow against other maximum-flow solvers, on the same edge weights."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.threads import flow_tables
from jaxflow.attention import edge_weights
from jaxflow.errors import InputError
from jaxflow.eval.benchmarks.timing import Budget, Comparison, Contender, over_parts, take_turns
from jaxflow.models import load
from jaxflow.models.hub import bundled_model
from jaxflow.train.config import AGREEMENT
from jaxflow.train.data import load_splits
from jaxflow.train.run import read_config

KERNEL = "jaxflow kernel, from edge weights"
BATCH = "jaxflow kernel, all sentences in one call"
CALL = "jaxflow.flow, the whole call"
EDMONDS_KARP, PREFLOW_PUSH = "networkx edmonds_karp", "networkx preflow_push"
KINDS = ("diffuse", "peaky", "bert-like", "causal", "trained-like")

# Layers times tokens beyond which networkx takes minutes: 10 microseconds for an arc in a flow.
_NETWORKX = 6 * 26

Array = NDArray[np.floating]
Solver = Callable[[Array, int], Array]


def synthetic_attention(
    kind: str, layers: int, n: int, *, heads: int = 8, sentences: int = 1, seed: int = 0
) -> NDArray[np.float64]:
    """Draw attention ``[sentences, layers, heads, n, n]`` of one of the `KINDS`."""
    rng = np.random.default_rng([seed, KINDS.index(kind), layers, n])
    scores = np.stack([_logits(kind, rng, (layers, heads, n, n)) for _ in range(sentences)])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _logits(kind: str, rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Draw the scores before the softmax, as untrained models, BERT and decoders have them."""
    layers, heads, n, _ = shape
    place = np.arange(n)
    if kind == "diffuse":
        return 0.5 * rng.normal(size=shape)
    if kind == "peaky":
        return 4 * rng.normal(size=shape)
    if kind == "causal":
        return np.where(np.tri(n, dtype=bool), 1.5 * rng.normal(size=shape), -np.inf)
    if kind == "bert-like":  # heads on the first and last token, on neighbours, and on content
        content = rng.normal(size=shape)
        distance = place - place[:, None]
        ends = np.broadcast_to(np.where((place == 0) | (place == n - 1), 5.0, 0.0), (n, n))
        bias = np.stack([ends, 4.0 * (distance == -1), 4.0 * (distance == 1), np.zeros((n, n))])
        return content + bias[rng.integers(0, 4, (layers, heads))]
    # Heads whose queries all attend to the same few keys, and local ones, as in small encoders.
    columns = rng.normal(scale=2.5, size=(layers, heads, 1, n))
    middle = place[:, None] + rng.integers(-2, 3, (layers, heads, 1, 1))
    column = rng.random((layers, heads, 1, 1)) < 0.6
    near = -0.5 * np.abs(place - middle)
    return np.where(column, columns, near) + 0.5 * rng.normal(size=shape)


class Work(NamedTuple):
    """Attention of a kind ("trained" is a model's own), its size, and what is computed on it."""

    kind: str
    layers: int
    tokens: int
    sentences: int
    measure: str = "table"  # growth in tokens, growth in layers or batch
    slow_sentences: int = 2  # sentences that networkx computes


def flow_works(
    *, full: bool, lengths: Sequence[int] | None, layers: int | None, trained: bool
) -> list[Work]:
    """Return the works of the benchmark, for given lengths and layers only where they are given.

    A trained model's attention joins the tables, and replaces "trained-like" in the batches.
    """
    few, slow = (8, 2) if full else (2, 1)
    growths: dict[str, list[tuple[int, int]]] = {}
    if lengths is not None or layers is not None:
        sizes = [(kind, layers or 6, n) for n in lengths or (9, 20) for kind in KINDS]
    elif full:
        sizes = [(kind, 6, n) for n in (9, 20) for kind in KINDS]
        sizes += [("trained-like", 6, 44), ("bert-like", 6, 44), ("bert-like", 12, 64)]
        sizes += [("bert-like", 12, 128), ("causal", 12, 128)]
        growths["tokens"] = [(6, n) for n in (16, 24, 32, 48, 64, 96, 128, 192)]
        growths["layers"] = [(depth, 20) for depth in (2, 3, 4, 6, 8, 12, 16, 24)]
    else:
        sizes = [*((kind, 6, 9) for kind in KINDS), ("trained-like", 6, 20)]
        growths = {"tokens": [(6, n) for n in (6, 9, 14, 20)], "layers": [(2, 6), (4, 6), (8, 6)]}
    if trained:
        own_lengths = dict.fromkeys(n for kind, _, n in sizes if kind == "trained-like")
        sizes = [("trained", 0, n) for n in own_lengths] + sizes
    works = [
        Work(kind, depth, n, min(few, 8 if n <= 44 else 4 if n <= 64 else 2), slow_sentences=slow)
        for kind, depth, n in sizes
    ]
    works += [
        Work("trained-like", depth, n, min(few, 4 if n <= 64 else 2), f"growth in {axis}", slow)
        for axis, grown in growths.items()
        for depth, n in grown
    ]
    own = ("trained", 0) if trained else ("trained-like", layers or 6)
    return [*works, Work(*own, lengths[-1] if lengths else 20, 256, "batch")]


def trained_attention(
    run: Path | None = None, data: Path | None = None
) -> Callable[[int, int], NDArray[np.float64]]:
    """Return ``(n, sentences) -> [B, L, H, n, n]`` float64, a trained model's attention.

    It is that of a run on the test sentences of its corpus, or of the bundled model on the
    agreement corpus in the folder `data`. Where too few sentences have n tokens, the beginnings of
    longer ones are taken, and B is less than `sentences` where the corpus has fewer.

    Raises `InputError` if there is no run or no such corpus; the function, if no sentence is long
    enough.
    """
    config = AGREEMENT if run is None else read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    config = config if run else dataclasses.replace(config, data=data)
    model = load(run or bundled_model())
    test = load_splits(config, model.whole_words)["test"]

    def attend(n: int, sentences: int) -> NDArray[np.float64]:
        rows = np.flatnonzero(test.lengths >= n)
        rows = rows[np.argsort(test.lengths[rows], kind="stable")][:sentences]
        if not len(rows):
            raise InputError(f"the trained model's corpus has no test sentence of {n} tokens")
        attention = np.asarray(model(test.tokens[rows, :n]).attention, np.float64)
        return attention / attention.sum(-1, keepdims=True)

    return attend


def run_flow(
    works: Sequence[Work],
    budget: Budget,
    trained: Callable[[int, int], Array] | None = None,
) -> Iterator[Comparison]:
    """Yield one comparison for each work; `trained` is needed for works on "trained" attention."""
    for work in works:
        if work.kind == "trained":
            assert trained is not None
            attention = trained(work.tokens, work.sentences)
        else:
            size = (work.kind, work.layers, work.tokens)
            attention = synthetic_attention(*size, sentences=work.sentences)
        compare = compare_batch if work.measure == "batch" else compare_tables
        yield compare(attention, work, budget)


def compare_tables(attention: Array, work: Work, budget: Budget) -> Comparison:
    """Compute the flows of one token by every solver, for each of ``[S, L, H, n, n]`` in turn."""
    sentences, layers, n = len(attention), attention.shape[1], attention.shape[-1]
    source = n - 1 if work.kind == "causal" else 0  # a decoder's first token attends to itself only
    solvers, missing = available_solvers(layers * n)
    for solver in solvers.values():
        solver(np.full((1, 2, 2), 0.5), 0)  # its imports are not timed
    order = (PREFLOW_PUSH, "igraph", "OR-tools")  # exact solvers in float64 first
    reference = next((name for name in order if name in solvers), "")
    batch = np.asarray(edge_weights(attention))
    tables = partial(flow_tables, batch, tuple(range(layers)), (source,), 1)
    parts = []
    for place, edges in enumerate(batch):
        exact = solvers[reference](edges, source) if reference else None
        kernel = partial(flow_tables, edges, tuple(range(layers)), (source,), 1)
        call = partial(jaxflow.flow, attention[place], sources=source, threads=1)
        contenders = [
            Contender(KERNEL, kernel, _error(exact), True),
            Contender(BATCH, tables, _error(exact, place), True, sentences),
            Contender(CALL, call, _error(exact), True),
            *(
                Contender(name, partial(solver, edges, source), _error(exact))
                for name, solver in solvers.items()
                if place < work.slow_sentences or not name.startswith("networkx")
            ),
        ]
        parts.append(take_turns(contenders, Budget(budget.seconds / sentences, budget.rounds)))
    timings = over_parts(parts)
    notes = [
        "the kernel and the peers start from finished edge weights, and each builds its own "
        "graphs; the whole call starts from the attention; all on one thread"
    ]
    notes += [
        f"{timing.name}: {len(timing.parts)} of the {sentences} sentences"
        for timing in timings
        if len(timing.parts) < sentences
    ]
    words = f"the {layers * n} flows of token {source}"
    return _comparison(attention, work, words, timings, reference, missing, tuple(notes))


def compare_batch(attention: Array, work: Work, budget: Budget) -> Comparison:
    """Compute the ``[CLS]`` flows of many sentences in one call, on one thread and on two."""
    different = len(attention)  # a corpus may have fewer sentences of a length
    attention = attention.astype(np.float32)[np.arange(work.sentences) % different]
    edges = np.asarray(edge_weights(attention.astype(np.float64)))
    depth = tuple(range(edges.shape[1]))
    error = _error(flow_tables(edges, depth, (0,), 1))
    contenders = [
        Contender(f"{name}, {threads} thread{'s' * (threads > 1)}", run, error, True)
        for threads in (1, 2)
        for name, run in (
            (KERNEL, partial(flow_tables, edges, depth, (0,), threads)),
            (CALL, partial(jaxflow.flow, attention, sources=0, threads=threads)),
        )
    ]
    return _comparison(
        attention,
        work,
        "[CLS] tables in one call",
        take_turns(contenders, budget),
        "the kernel on one thread",
        notes=(
            f"float32 attention of {attention.shape[2]} heads, {different} different sentences",
        ),
    )


def _comparison(attention: Array, work: Work, words: str, *found: Any, **more: Any) -> Comparison:
    sentences, layers, n = len(attention), attention.shape[1], attention.shape[-1]
    return Comparison(
        "flow",
        f"{work.kind} attention, {layers} layers, {n} tokens: {words}, {sentences} "
        f"sentence{'s' * (sentences > 1)}",
        {
            "measure": work.measure,
            "attention": work.kind,
            "layers": layers,
            "tokens": n,
            "sentences": sentences,
        },
        *found,
        **more,
    )


def _error(exact: Array | None, place: int | None = None) -> Callable[[Array], float] | None:
    """Return a function to the largest difference from `exact`; `place` is a sentence of many."""
    if exact is None:
        return None

    def error(table: Array) -> float:
        own = table if place is None else table[place]
        return float(np.abs(np.asarray(own).reshape(exact.shape) - exact).max())

    return error


# Solvers: edge weights [L, n, n] and a source -> its flows [L, n] to all input tokens, graph
# building included. Node (level, token) is level * n + token; level 0 holds the input.


def available_solvers(size: int) -> tuple[dict[str, Solver], dict[str, str]]:
    """Return the peers for ``layers * tokens == size``, and why the others are left out."""
    solvers: dict[str, Solver] = {}
    missing: dict[str, str] = {}
    for name, package, solver in (
        ("OR-tools", "ortools", partial(_by_layer, _or_tools)),
        ("igraph", "igraph", partial(_by_layer, _igraph)),
        (PREFLOW_PUSH, "networkx", partial(_by_layer, _preflow_push)),
        (EDMONDS_KARP, "networkx", _edmonds_karp),
    ):
        if not importlib.util.find_spec(package):
            missing[name] = "not installed"
        elif package == "networkx" and size > _NETWORKX:
            missing[name] = "left out, too slow for this size"
        else:
            solvers[name] = solver
    return solvers, missing


def _edmonds_karp(edges: Array, source: int) -> Array:
    """Run networkx as the paper's code does: one graph with edges of weight 0, one call a flow."""
    import networkx

    layers, n = edges.shape[:2]
    graph = networkx.DiGraph()
    for layer, query, key in np.ndindex(edges.shape):
        weight = float(edges[layer, query, key])
        graph.add_edge((layer + 1) * n + query, layer * n + key, capacity=weight)
    solve = networkx.algorithms.flow.edmonds_karp
    table = np.empty((layers, n))
    for layer, sink in np.ndindex(table.shape):
        start = (layer + 1) * n + source
        table[layer, sink] = networkx.maximum_flow_value(graph, start, sink, flow_func=solve)
    return table


def _by_layer(flows: Callable[..., Sequence[float]], edges: Array, source: int) -> Array:
    """Call ``flows(n, start, tails, heads, weights)`` for each layer, without idle arcs."""
    layers, n = edges.shape[:2]
    table = np.empty((layers, n))
    for layer in range(layers):
        used = edges[: layer + 1].copy()
        used[layer, np.arange(n) != source] = 0
        level, query, key = np.nonzero(used)
        arcs = ((level + 1) * n + query, level * n + key, used[level, query, key])
        table[layer] = flows(n, (layer + 1) * n + source, *arcs)
    return table


def _preflow_push(n: int, start: int, *arcs: NDArray[Any]) -> list[float]:
    """Run networkx's push-relabel, the residual network kept from sink to sink."""
    import networkx
    from networkx.algorithms.flow import build_residual_network, preflow_push

    graph = networkx.DiGraph()
    graph.add_nodes_from(range(n))
    every = zip(*(part.tolist() for part in arcs), strict=True)
    graph.add_weighted_edges_from(every, weight="capacity")
    options = {
        "flow_func": preflow_push,
        "residual": build_residual_network(graph, "capacity"),
    }
    return [networkx.maximum_flow_value(graph, start, sink, **options) for sink in range(n)]


def _or_tools(
    n: int, start: int, tails: NDArray[Any], heads: NDArray[Any], weights: Array
) -> list[float]:
    """Run OR-tools' push-relabel on weights in units of 2 to the power of -40."""
    from ortools.graph.python import max_flow

    scale = 2.0**40
    solver = max_flow.SimpleMaxFlow()
    capacity = np.rint(weights * scale).astype(np.int64)
    solver.add_arcs_with_capacity(tails.astype(np.int32), heads.astype(np.int32), capacity)
    found = [0.0] * n
    for sink in set(range(n)) & set(heads.tolist()):  # it refuses nodes without arcs
        status = solver.solve(start, sink)
        if status != solver.OPTIMAL:
            raise RuntimeError(f"OR-tools failed with status {status}")
        found[sink] = solver.optimal_flow() / scale
    return found


def _igraph(
    n: int, start: int, tails: NDArray[Any], heads: NDArray[Any], weights: Array
) -> list[float]:
    """Run igraph's push-relabel in float64, one call a sink."""
    import igraph

    arcs = np.stack([tails, heads], axis=1).tolist()
    graph = igraph.Graph(n=start // n * n + n, edges=arcs, directed=True)
    capacity = weights.tolist()
    return [graph.maxflow_value(start, sink, capacity) for sink in range(n)]
