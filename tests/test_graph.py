"""Test the attention graph: nodes, edges and capacities by definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import oracles
import pytest
from attentions import attention_of, attentions, heads_options, pad, paddings, residuals
from hypothesis import given
from hypothesis import strategies as st

import jaxflow


@given(attention=attentions(), heads=heads_options, residual=residuals, data=st.data())
def test_edges_are_the_weights_that_are_not_0_and_padded_tokens_are_no_nodes(
    attention: np.ndarray, heads: str | int, residual: float, data: st.DataObject
) -> None:
    weights = oracles.edge_weights(attention, residual, heads)
    layers, n = len(attention), attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, 0.5)
    graph = jaxflow.attention_graph(padded, heads=heads, residual=residual, mask=mask)
    assert set(graph) == {(layer, int(token)) for layer in range(layers + 1) for token in places}
    expected = {
        ((layer + 1, int(places[i])), (layer, int(places[j]))): weights[layer, i, j]
        for layer, i, j in np.ndindex(weights.shape)
        if weights[layer, i, j] > 0
    }
    capacities = networkx.get_edge_attributes(graph, "capacity")
    assert capacities.keys() == expected.keys()
    for edge, capacity in capacities.items():
        assert type(capacity) is float
        assert capacity == pytest.approx(expected[edge], rel=1e-12)


def test_the_sum_over_paths_is_rollout_and_the_maximum_flow_is_flow() -> None:
    attention = attention_of("dense", 0, (3, 2, 4, 4))
    graph, flows = jaxflow.attention_graph(attention), jaxflow.flow(attention)[-1]
    paths = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        for path in networkx.all_simple_edge_paths(graph, (3, i), (0, j)):
            paths[i, j] += np.prod([graph.edges[edge]["capacity"] for edge in path])
        value = networkx.maximum_flow_value(graph, (3, i), (0, j))
        assert flows[i, j] == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(jaxflow.rollout(attention)[-1], paths, atol=1e-14)


def test_jax_arrays_are_taken_but_no_batches_and_no_traced_ones() -> None:
    attention = attention_of("dense", 1, (2, 2, 3, 3)).astype(np.float32)
    graph = jaxflow.attention_graph(jnp.asarray(attention), mask=jnp.ones(3, bool))
    assert networkx.utils.graphs_equal(graph, jaxflow.attention_graph(attention))
    with pytest.raises(ValueError, match="attention must be that of one sentence"):
        jaxflow.attention_graph(attention[None])
    with pytest.raises(ValueError, match="attention_graph needs values"):
        jax.jit(jaxflow.attention_graph)(jnp.asarray(attention))
