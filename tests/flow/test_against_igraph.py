"""Ten thousand graphs against igraph, each with its cut: what no other test would think of."""

from __future__ import annotations

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of

import jaxflow
from jaxflow.attention import edge_weights
from jaxflow.flow.workers import cut_tables

igraph = pytest.importorskip("igraph", reason="igraph, the test oracle, is not installed")

ROUNDS, EACH = 200, 5


def igraph_flow(edges, layer, source, sink):
    n = edges.shape[-1]
    edges = edges[: layer + 1]
    level, query, key = np.nonzero(edges)
    graph = igraph.Graph(
        n=(layer + 2) * n,
        edges=np.stack([(level + 1) * n + query, level * n + key], 1),
        directed=True,
    )
    capacity = edges[level, query, key].tolist()
    return graph.maxflow_value((layer + 1) * n + source, sink, capacity=capacity)


@pytest.mark.parametrize("block", range(10))
def test_flow_and_cut(block):
    rng = np.random.default_rng(block)
    for _ in range(ROUNDS // 10):
        layers, n = int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 4, 5, 6, 8, 11]))
        batch = np.stack(
            [attention_of(kind, rng, layers, 1, n) for kind in sorted(KINDS) for _ in range(EACH)]
        )
        residual = float(rng.choice([0.5, 0.5, 0.1, 0.0, 0.95]))
        mask = np.ones((len(batch), n), bool)
        if n > 2:
            # Padding in the last token of every fifth graph, its mass given to the first.
            mask[::5, -1] = False
            batch[::5, ..., 0] += batch[::5, ..., -1]
            batch[::5, ..., -1] = 0
        edges = edge_weights(batch, residual=residual, mask=mask)
        layer, source = int(rng.integers(layers)), int(rng.integers(n))
        table = jaxflow.flow(batch, residual=residual, mask=mask, layers=layer, sources=source)
        sinks = rng.integers(n, size=len(batch))
        pulls = np.zeros_like(table)
        pulls[np.arange(len(batch)), 0, 0, sinks] = 1
        cuts = cut_tables(edges, (layer,), (source,), pulls, 1)
        for graph, sink, flows, cut in zip(edges, sinks, table, cuts, strict=True):
            value = flows[0, 0, sink]
            assert value == pytest.approx(
                igraph_flow(graph, layer, source, int(sink)), rel=0, abs=1e-9
            )
            assert (cut * graph).sum() == pytest.approx(value, rel=0, abs=1e-9)
