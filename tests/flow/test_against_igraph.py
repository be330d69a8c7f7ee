"""Ten thousand graphs against igraph, each with its cut: what no other test would think of."""

from __future__ import annotations

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow._flow.threads import cut_tables
from jaxflow.attention import edge_weights

igraph = pytest.importorskip("igraph", reason="igraph, the test oracle, is not installed")

EXACT = 1e-9
# What rounding may leave of a path of which everything is taken: nothing that a flow could miss.
NOTHING = 1e-11
COPIES = 5
EXAMPLES = -(-10_000 // (COPIES * len(KINDS)))


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


def reaches(edges, layer, source, sinks):
    """Whether a path of edges above `NOTHING` leads from the source to each graph's own sink."""
    there = np.zeros((len(edges), edges.shape[-1]), bool)
    there[:, source] = True
    for level in range(layer, -1, -1):
        there = (there[:, :, None] & (edges[:, level] > NOTHING)).any(1)
    return there[np.arange(len(edges)), sinks]


def graphs(seed, layers, n, padding):
    """`COPIES` of every kind; with `padding` every fifth lacks its last token."""
    rng = np.random.default_rng(seed)
    batch = np.stack(
        [attention_of(kind, rng, layers, 1, n) for kind in sorted(KINDS) for _ in range(COPIES)]
    )
    mask = np.ones((len(batch), n), bool)
    if padding and n > 1:
        mask[::COPIES, -1] = False
        # The mass of the padded key goes to the first token.
        batch[::COPIES, ..., 0] += batch[::COPIES, ..., -1]
        batch[::COPIES, ..., -1] = 0
    return batch, mask, rng


@settings(max_examples=EXAMPLES)
@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.integers(1, 8),
    n=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 11]),
    residual=st.sampled_from([0.5, 0.0, 0.1, 0.95, 1.0]),
    padding=st.booleans(),
)
@example(seed=0, layers=1, n=1, residual=0.5, padding=False)
@example(seed=0, layers=6, n=1, residual=0.0, padding=False)
@example(seed=0, layers=1, n=11, residual=0.5, padding=True)
@example(seed=0, layers=12, n=9, residual=0.5, padding=True)
@example(seed=0, layers=3, n=33, residual=0.0, padding=False)
def test_flow_and_cut(seed, layers, n, residual, padding):
    batch, mask, rng = graphs(seed, layers, n, padding)
    layer, source = int(rng.integers(layers)), int(rng.integers(n))
    sinks = rng.integers(n, size=len(batch))
    edges = edge_weights(batch, residual=residual, mask=mask)
    each = np.arange(len(batch))

    table = jaxflow.flow(batch, residual=residual, mask=mask, layers=layer, sources=source)
    values = table[each, 0, 0, sinks]
    expected = [
        igraph_flow(graph, layer, source, int(sink))
        for graph, sink in zip(edges, sinks, strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=0, atol=EXACT)

    # Strong duality: edges that weigh what flows, and without which nothing does.
    pulls = np.zeros_like(table)
    pulls[each, 0, 0, sinks] = 1
    cuts = cut_tables(edges, (layer,), (source,), pulls, 1)
    assert np.isin(cuts, (0, 1)).all()
    np.testing.assert_allclose((cuts * edges).sum((1, 2, 3)), values, rtol=0, atol=EXACT)
    assert not reaches(np.where(cuts > 0, 0, edges), layer, source, sinks).any()


def test_there_are_ten_thousand():
    assert EXAMPLES * len(KINDS) * COPIES >= 10_000
