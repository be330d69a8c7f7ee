"""Test aggregators and receptive fields against NumPy, networkx and the public functions."""

from functools import partial

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from session import refused
from traces import traced

import jaxflow
from jaxflow.edges import AGGREGATORS, EdgeWeight, Trace, aggregate, normalise, receptive_field
from jaxflow.edges._aggregate import capacities, row_normalised

RNG = np.random.default_rng(3)


def given(edges, *, residual=False, mask=None):
    """A trace and an edge weight that is the array given."""
    attention = np.full((*edges.shape[:-2], 1, *edges.shape[-2:]), 1 / edges.shape[-1], np.float32)
    weight = EdgeWeight("given", "given", lambda _: jnp.asarray(edges), "a test", residual=residual)
    return Trace(attention, mask), weight


@pytest.mark.parametrize("residual", [0.3, 1.0])
def test_attention_is_combined_as_by_the_public_functions(residual):
    trace = traced("post")
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    options = {"residual": residual, "mask": mask}
    found = aggregate(trace, "raw", "rollout", residual=residual)
    np.testing.assert_allclose(found, jaxflow.rollout(attention, **options), atol=1e-6)
    found = aggregate(trace, "raw", "flow", residual=residual, sources=[0, 2])
    expected = jaxflow.flow(attention, sources=[0, 2], **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = aggregate(trace, "raw", "none")
    np.testing.assert_allclose(found, jaxflow.raw_attention(attention, mask=mask), atol=1e-6)


@pytest.mark.parametrize("held", [False, True])
def test_products_are_those_of_numpy(held):
    edges = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
    edges[:, 1, 2] = -1  # a row without any positive weight
    trace, weight = given(edges, residual=held)
    positive = np.maximum(edges.astype(np.float64), 0)
    total = positive.sum(-1, keepdims=True)
    rows = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    share = np.where(total > 0, 0.0 if held else 0.25, 1.0)
    wanted = {
        "none": edges,
        "rollout": (1 - share) * rows + share * np.eye(5),
        "paths": edges if held else edges + np.eye(5),
        "product": edges,
    }
    for how, steps in wanted.items():
        expected = steps.astype(np.float64).copy()
        if how != "none":
            for layer in range(1, 4):
                expected[:, layer] = steps[:, layer].astype(np.float64) @ expected[:, layer - 1]
        found = aggregate(trace, weight, how, residual=0.25)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
        one = aggregate(trace, weight, how, residual=0.25, sources=-2)
        np.testing.assert_allclose(one, np.asarray(found)[..., [3], :], atol=1e-6)


def test_rollout_never_exceeds_flow():
    trace, weight = given(RNG.exponential(size=(3, 5, 6, 6)).astype(np.float32))
    rolled = np.asarray(aggregate(trace, weight, "rollout"))
    flowing = aggregate(trace, weight, "flow")
    assert (rolled <= flowing + 1e-5).all()
    np.testing.assert_allclose(rolled[:, 0], flowing[:, 0], atol=1e-6)


def test_capacities_are_rows_that_sum_to_one_but_for_masked_keys():
    edges = RNG.normal(size=(3, 4, 4))
    edges[..., 0] = 1  # some weight in every row
    edges = jnp.asarray(edges, jnp.float32)
    rows = np.asarray(capacities(edges, held=False, mask=jnp.array([True, True, True, False])))
    assert (rows >= 0).all()
    positive = np.maximum(np.asarray(edges), 0)
    lost = 0.5 * (positive / positive.sum(-1, keepdims=True))[:, :3, 3]
    np.testing.assert_allclose(rows[:, :3].sum(-1), 1 - lost, atol=1e-6)
    assert not rows[:, 3].any()
    assert not rows[:, :, 3].any()
    assert not np.asarray(row_normalised(jnp.zeros((2, 2)))).any()


def uniform(n, layers, windows=None):
    """Return attention uniform over the last tokens of each layer's window, and what it sees."""
    seen = np.stack([np.tri(n) - np.tri(n, k=-w) for w in windows or [n] * layers])
    rows = seen / seen.sum(-1, keepdims=True)
    return np.repeat(rows[:, None], 2, 1).astype(np.float32), seen > 0


@pytest.mark.parametrize("how", AGGREGATORS)
@pytest.mark.parametrize("windows", [None, (2, 5, 3)])
def test_fields_are_uniform_causal_attention_combined(how, windows):
    n, layers, residual = 5, 3, 0.3
    attention, visible = uniform(n, layers, windows)
    options = {} if windows is None else {"visible": visible}
    found = receptive_field(n, layers, how, residual, **options)
    combined = aggregate(Trace(attention), "raw", how, residual=residual)
    np.testing.assert_allclose(found, combined, rtol=1e-5, atol=1e-6)
    ones = np.asarray(normalise(combined, how, residual=residual, **options))
    np.testing.assert_allclose(ones, found > 0, atol=1e-5)
    if windows is not None:
        return
    shorter = receptive_field(3, layers, how, residual)
    np.testing.assert_allclose(found[:, :3, :3], shorter, atol=1e-6)
    if how == "flow":
        step = 0.7 * attention[0, 0] + 0.3 * np.eye(n)
        graph = nx.DiGraph()
        for layer in range(layers):
            for i, j in np.argwhere(step):
                graph.add_edge((layer + 1, i), (layer, j), capacity=float(step[i, j]))
        flow = nx.maximum_flow_value(graph, (layers, 3), (0, 1))
        assert found[-1, 3, 1] == pytest.approx(flow, abs=1e-6)


def test_scores_are_divided_row_by_row():
    trace = traced("causal")
    whole, field = aggregate(trace, "raw"), receptive_field(6, 2)
    expected = np.divide(whole, field, out=np.zeros(whole.shape), where=field > 0)
    found = normalise(whole[..., [5, 2], :], sources=[-1, 2])
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, expected[..., [5, 2], :], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.jit(normalise)(whole), expected, rtol=1e-5)
    assert isinstance(normalise(np.asarray(whole)), np.ndarray)


TRACE = Trace(np.full((1, 1, 2, 2), 0.5, np.float32))


@pytest.mark.parametrize(
    ("function", "arguments", "complaint"),
    [
        (aggregate, (TRACE, "rav"), "edge weight must be one of .*raw.*, got 'rav'"),
        (partial(aggregate, residual=2), (TRACE,), "residual must be a number from 0 to 1"),
        (aggregate, (TRACE, "raw", "sum"), "aggregator must be one of none, rollout, .* got 'sum'"),
        (receptive_field, (0, 1), "n must be a positive whole number"),
        (receptive_field, (2, 1.5), "layers must be a positive whole number"),
        (receptive_field, (2, 1, "sum"), "aggregator must be one of none, rollout"),
        (receptive_field, (2, 1, "rollout", 2), "residual must be a number from 0 to 1"),
        (partial(receptive_field, visible=np.ones((1, 2, 2), bool)), (2, 1), "visible must be boo"),
        (partial(receptive_field, visible=np.zeros((1, 2, 2), bool)), (2, 1), "visible must have"),
        (normalise, (np.full((1, 2, 2), 0.5),), "must be a causal model's"),
        (normalise, (np.ones((2, 2)),), "token_attention must have the shape"),
    ],
)
def test_unusable_input_is_named(function, arguments, complaint):
    with refused(complaint):
        function(*arguments)


def test_sources_that_do_not_fit_are_named():
    with refused("sources must be an index from -2 to 1, got 2"):
        aggregate(TRACE, sources=2)
    for sources, words in (([0, 1], "the 1 tokens whose rows are given"), ([2], "an index from")):
        with refused(f"sources must be {words}"):
            normalise(np.ones((1, 1, 2)), sources=sources)
