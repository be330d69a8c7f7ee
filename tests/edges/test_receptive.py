"""Receptive fields of causal attention: products and searches by hand, and what must come out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from traces import traced

from jaxflow.edges import AGGREGATORS, aggregate
from jaxflow.edges._receptive import normalise, receptive_field
from jaxflow.errors import InputError

DOWN = ("none", "rollout", "paths", "product")


def by_loops(n, layers, how, residual):
    uniform = [[1 / (i + 1) if j <= i else 0 for j in range(n)] for i in range(n)]
    edges, identity = np.array(uniform), np.eye(n)
    step = {
        "none": edges,
        "rollout": (1 - residual) * edges + residual * identity,
        "paths": edges + identity,
        "product": edges,
    }[how]
    found = [step]
    for _ in range(layers - 1):
        found.append(step if how == "none" else step @ found[-1])
    return np.stack(found)


@pytest.mark.parametrize("how", DOWN)
def test_fields_are_products_of_numpy(how):
    for n, layers, residual in ((1, 1, 0.5), (5, 3, 0.5), (4, 2, 0.2)):
        found = receptive_field(n, layers, how, residual)
        np.testing.assert_allclose(found, by_loops(n, layers, how, residual), rtol=1e-5)


def test_the_field_of_flow_is_that_of_networkx():
    n, layers, residual = 4, 3, 0.3
    found = receptive_field(n, layers, "flow", residual)
    step = by_loops(n, 1, "rollout", residual)[0]
    graph = nx.DiGraph()
    for layer in range(1, layers + 1):
        for i, j in np.argwhere(step):
            graph.add_edge((layer, i), (layer - 1, j), capacity=step[i, j])
    for i in range(n):
        for j in range(i + 1):
            flow = nx.maximum_flow_value(graph, (layers, i), (0, j))
            assert found[-1, i, j] == pytest.approx(flow, abs=1e-9)
    assert not np.triu(found[-1], 1).any()


@pytest.mark.parametrize("how", AGGREGATORS)
def test_a_longer_sentence_has_the_fields_of_shorter_ones(how):
    longer, shorter = receptive_field(6, 2, how), receptive_field(4, 2, how)
    np.testing.assert_allclose(longer[:, :4, :4], shorter, atol=1e-6)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_uniform_attention_is_one_everywhere(how):
    from jaxflow.edges import Trace

    n, layers, residual = 5, 3, 0.4
    rows = np.tri(n) / np.arange(1, n + 1)[:, None]
    attention = np.broadcast_to(rows, (2, layers, 2, n, n)).astype(np.float32)
    combined = aggregate(Trace(attention), "raw", how, residual=residual)
    found = np.asarray(normalise(combined, how, residual=residual))
    np.testing.assert_allclose(found, np.broadcast_to(np.tri(n), found.shape), atol=1e-5)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_scores_of_a_model_are_divided_row_by_row(how):
    trace = traced("causal")
    n, layers = 6, 2
    whole = aggregate(trace, "raw", how)
    field = receptive_field(n, layers, how)
    expected = np.divide(whole, field, out=np.zeros(whole.shape), where=field > 0)
    np.testing.assert_allclose(normalise(whole, how), expected, rtol=1e-5)
    last = aggregate(trace, "raw", how, sources=[5, 2])
    found = normalise(last, how, sources=[5, 2])
    np.testing.assert_allclose(found, expected[..., [5, 2], :], rtol=1e-4, atol=1e-6)
    assert isinstance(found, jax.Array) == isinstance(last, jax.Array)
    np.testing.assert_array_equal(normalise(last, how, sources=[-1, 2]), found)


def test_it_runs_under_jit():
    scores = jnp.tril(jnp.ones((2, 3, 3)))
    plain = normalise(scores)
    np.testing.assert_allclose(jax.jit(normalise)(scores), plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, 1), "n must be a positive whole number"),
        ((2, 1.5), "layers must be a positive whole number"),
        ((2, 1, "sum"), "aggregator must be one of none, rollout"),
        ((2, 1, "rollout", 2), "residual must be a number from 0 to 1"),
    ],
)
def test_fields_that_cannot_be_are_named(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        receptive_field(*arguments)


def test_scores_that_are_no_causal_models_are_named():
    with pytest.raises(InputError, match="must be a causal model's"):
        normalise(np.full((1, 2, 2), 0.5))
    with pytest.raises(InputError, match=r"token_attention must have the shape"):
        normalise(np.ones((2, 2)))
    with pytest.raises(InputError, match="sources must be the 1 tokens whose rows are given"):
        normalise(np.ones((1, 1, 2)), sources=[0, 1])
    with pytest.raises(InputError, match="sources must be the 1 tokens"):
        normalise(np.ones((1, 1, 2)), sources=[2])
