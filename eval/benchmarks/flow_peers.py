"""Attention flow by other people's solvers, each in its best set-up, graph building included.

Every function takes edge weights ``[L, n, n]`` and the token explained, and returns the table
``[L, n]`` of its flows to all input tokens. Node ``level * n + token``: level 0 holds the input.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["OPTIONAL", "Solver", "edmonds_karp", "optional_peers", "preflow_push"]

Table = NDArray[np.float64]
Solver = Callable[[Table, int], Table]


def edmonds_karp(edges: Table, source: int) -> Table:
    """Run networkx as the paper's code does: one graph with edges of weight 0, one call a flow."""
    import networkx
    from networkx.algorithms.flow import edmonds_karp as solve

    layers, n = edges.shape[:2]
    graph = networkx.DiGraph()
    for layer in range(layers):
        for query in range(n):
            for key in range(n):
                weight = float(edges[layer, query, key])
                graph.add_edge((layer + 1) * n + query, layer * n + key, capacity=weight)
    table = np.empty((layers, n))
    for layer in range(layers):
        for sink in range(n):
            start = (layer + 1) * n + source
            table[layer, sink] = networkx.maximum_flow_value(graph, start, sink, flow_func=solve)
    return table


def preflow_push(edges: Table, source: int) -> Table:
    """Run networkx's push-relabel: a layer's graph without idle edges, its residual kept."""
    import networkx
    from networkx.algorithms.flow import build_residual_network
    from networkx.algorithms.flow import preflow_push as solve

    layers, n = edges.shape[:2]
    table = np.zeros((layers, n))
    for layer in range(layers):
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(n))
        tails, heads, weights = _arcs(edges, layer, source)
        for tail, head, weight in zip(
            tails.tolist(), heads.tolist(), weights.tolist(), strict=True
        ):
            graph.add_edge(tail, head, capacity=weight)
        residual = build_residual_network(graph, "capacity")
        for sink in range(n):
            start = (layer + 1) * n + source
            table[layer, sink] = networkx.maximum_flow_value(
                graph, start, sink, flow_func=solve, residual=residual
            )
    return table


def or_tools(edges: Table, source: int) -> Table:
    """Run OR-tools on a layer's graph in whole numbers of 2^-40, one solve a sink."""
    from ortools.graph.python import max_flow

    scale = 2.0**40
    layers, n = edges.shape[:2]
    table = np.zeros((layers, n))
    for layer in range(layers):
        tails, heads, weights = _arcs(edges, layer, source)
        solver = max_flow.SimpleMaxFlow()
        solver.add_arcs_with_capacity(
            tails.astype(np.int32),
            heads.astype(np.int32),
            np.rint(weights * scale).astype(np.int64),
        )
        reached = set(heads.tolist())
        for sink in range(n):
            if sink not in reached:  # it refuses nodes that no arc names
                continue
            status = solver.solve((layer + 1) * n + source, sink)
            if status != solver.OPTIMAL:
                raise RuntimeError(f"OR-tools gave up with {status}")
            table[layer, sink] = solver.optimal_flow() / scale
    return table


def igraph(edges: Table, source: int) -> Table:
    """Run igraph's push-relabel on a layer's graph in float64, one call a sink."""
    import igraph as library

    layers, n = edges.shape[:2]
    table = np.zeros((layers, n))
    for layer in range(layers):
        tails, heads, weights = _arcs(edges, layer, source)
        arcs = np.stack([tails, heads], axis=1)
        graph = library.Graph(n=(layer + 2) * n, edges=arcs.tolist(), directed=True)
        capacity = weights.tolist()
        for sink in range(n):
            table[layer, sink] = graph.maxflow_value((layer + 1) * n + source, sink, capacity)
    return table


#: Peers that are used where they are installed: how they are shown -> package, solver.
OPTIONAL: Mapping[str, tuple[str, Solver]] = {
    "OR-tools": ("ortools", or_tools),
    "igraph": ("igraph", igraph),
}


def optional_peers() -> tuple[dict[str, Solver], dict[str, str]]:
    """Return the peers that are installed, and why the others are not here."""
    there = {
        name: solver
        for name, (package, solver) in OPTIONAL.items()
        if importlib.util.find_spec(package)
    }
    return there, {name: "not installed" for name in OPTIONAL if name not in there}


def _arcs(
    edges: Table, layer: int, source: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Table]:
    """Tails, heads and weights of the arcs that flow from the source in a layer can use."""
    n = edges.shape[-1]
    used = edges[: layer + 1].copy()
    used[layer, np.arange(n) != source] = 0
    level, query, key = np.nonzero(used)
    return (level + 1) * n + query, level * n + key, used[level, query, key]
