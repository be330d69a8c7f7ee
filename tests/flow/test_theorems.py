"""What must hold for every attention, whatever computed it (docs/flow.md gives the reasons)."""

from __future__ import annotations

import numpy as np
from flow_graphs import attentions
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow.attention import edge_weights

EXACT = 1e-9
often = settings(max_examples=60, deadline=None)


def column_bound(edges):
    return np.minimum(1, edges[0].sum(0))


@often
@given(attentions())
def test_between_rollout_and_the_column_sum(attention):
    table = jaxflow.flow(attention)
    product, rolled = np.eye(attention.shape[-1]), []
    for layer in edge_weights(attention):
        product = layer @ product
        rolled.append(product)
    assert (np.stack(rolled) <= table + EXACT).all()
    assert (table <= column_bound(edge_weights(attention)) + EXACT).all()
    np.testing.assert_allclose(table[0], rolled[0], rtol=0, atol=EXACT)


@often
@given(attentions())
def test_a_layer_adds_up_the_flows_below_it(attention):
    edges, table = edge_weights(attention), jaxflow.flow(attention)
    for layer in range(1, len(edges)):
        assert (table[layer] >= edges[layer] @ table[layer - 1] - EXACT).all()


@often
@given(attentions())
def test_a_saturated_sink_stays_saturated(attention):
    bound, table = column_bound(edge_weights(attention)), jaxflow.flow(attention)
    full = (table >= bound - EXACT).all(1)
    assert (full[1:] >= full[:-1]).all()


@often
@given(attentions(max_layers=2))
def test_two_layers_are_a_sum_of_minima(attention):
    edges, table = edge_weights(attention), jaxflow.flow(attention)
    if len(edges) == 2:
        paths = np.minimum(edges[1][:, :, None], edges[0][None])
        np.testing.assert_allclose(table[1], paths.sum(1), rtol=0, atol=EXACT)


@often
@given(attentions())
def test_straight_paths_are_disjoint(attention):
    edges, table = edge_weights(attention), jaxflow.flow(attention)
    for layer in range(1, len(edges)):
        straight = np.minimum(edges[layer][:, :, None], edges[0][None])
        for between in edges[1:layer]:
            straight = np.minimum(straight, np.diagonal(between)[None, :, None])
        assert (table[layer] >= straight.sum(1) - EXACT).all()


@often
@given(attentions(), st.randoms(use_true_random=False))
def test_the_order_of_heads_does_not_matter(attention, random):
    order = list(range(attention.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        jaxflow.flow(attention[:, order]), jaxflow.flow(attention), rtol=0, atol=EXACT
    )


@often
@given(attentions(), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(attention, random):
    order = list(range(attention.shape[-1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        jaxflow.flow(attention[..., order, :][..., order]),
        jaxflow.flow(attention)[:, order][..., order],
        rtol=0,
        atol=EXACT,
    )
