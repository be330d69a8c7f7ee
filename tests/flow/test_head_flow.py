"""Flow of single heads against networkx on the graph of appendix A.1, built by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import jaxflow

RNG = np.random.default_rng(5)


def attention(*shape: int, mask: np.ndarray | None = None) -> np.ndarray:
    weights = RNG.dirichlet(np.ones(shape[-1]) / 2, shape[:-1])
    if mask is not None:
        weights = np.where(mask[:, None, None, None, :], weights, 0)
        weights /= weights.sum(-1, keepdims=True)
    return weights


def by_networkx(
    weights: np.ndarray, layer: int, head: int, source: int, sink: int, residual: float
) -> float:
    """One pair of one sentence ``[L, H, n, n]``."""
    n = weights.shape[-1]
    graph = nx.DiGraph()
    for level in range(layer + 1):
        edges = weights[level, head] if level == layer else weights[level].mean(0)
        for i in range(n):
            for j in range(n):
                capacity = (1 - residual) * edges[i, j] + residual * (i == j)
                graph.add_edge((level + 1, i), (level, j), capacity=capacity)
    return float(nx.maximum_flow_value(graph, (layer + 1, source), (0, sink)))


@pytest.mark.parametrize("residual", [0.0, 0.4])
def test_every_pair_is_that_of_networkx(residual):
    weights = attention(3, 2, 4, 4)
    found = jaxflow.head_flow(weights, residual=residual)
    assert found.shape == (3, 2, 4, 4)
    for layer, head, source, sink in np.ndindex(found.shape):
        expected = by_networkx(weights, layer, head, source, sink, residual)
        assert found[layer, head, source, sink] == pytest.approx(expected, abs=1e-9)


def test_padding_and_choices():
    mask = np.array([[True, True, True, False], [True, True, True, True]])
    weights = attention(2, 3, 2, 4, 4, mask=mask)
    whole = jaxflow.head_flow(weights, mask=mask)
    short = jaxflow.head_flow(weights[0, :, :, :3, :3])
    np.testing.assert_allclose(whole[0, :, :, :3, :3], short, atol=1e-12)
    assert not whole[0, ..., 3].any()
    some = jaxflow.head_flow(weights, mask=mask, sources=[2, 0], layers=-1)
    np.testing.assert_array_equal(some, whole[:, -1:][..., [2, 0], :])


def test_one_head_is_flow_and_more_flows_than_is_rolled_out():
    weights = attention(3, 1, 5, 5)
    np.testing.assert_allclose(jaxflow.head_flow(weights)[:, 0], jaxflow.flow(weights), atol=1e-12)
    many = attention(4, 3, 5, 5)
    # What rollout sends is one flow among all; the maximum is no less.
    assert (jaxflow.head_flow(many) >= jaxflow.head_rollout(many) - 1e-12).all()
    with pytest.raises(jaxflow.InputError, match="layers"):
        jaxflow.head_flow(weights, layers=9)
