"""Aggregators against NumPy and against the public functions of attention."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from traces import traced

import jaxflow
from jaxflow.edges import (
    AGGREGATORS,
    EdgeWeight,
    Trace,
    aggregate,
    edge_weight,
    edge_weights,
    weigh,
)
from jaxflow.edges._aggregate import capacities, row_normalised
from jaxflow.errors import InputError

RNG = np.random.default_rng(3)
KINDS = ("pre", "post", "causal")


def given(edges, *, residual=False, mask=None):
    """A trace and an edge weight that says what is given."""
    attention = np.full((*edges.shape[:-2], 1, *edges.shape[-2:]), 1 / edges.shape[-1], np.float32)
    weight = EdgeWeight("given", "given", lambda _: jnp.asarray(edges), "a test", residual=residual)
    return Trace(attention, mask), weight


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_followed_as_by_the_public_functions(kind):
    trace = traced(kind)
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    for residual in (0.0, 0.3, 1.0):
        options = {"residual": residual, "mask": mask}
        np.testing.assert_allclose(
            aggregate(trace, "raw", "rollout", residual=residual),
            jaxflow.rollout(attention, **options),
            atol=1e-6,
        )
        np.testing.assert_allclose(
            aggregate(trace, "raw", "flow", residual=residual, sources=[0, 2]),
            jaxflow.flow(attention, sources=[0, 2], **options),
            atol=1e-5,
        )
    np.testing.assert_allclose(
        aggregate(trace, "raw", "none"), jaxflow.raw_attention(attention, mask=mask), atol=1e-6
    )


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
        np.testing.assert_array_equal(
            aggregate(trace, weight, how, residual=0.25, sources=3), np.asarray(found)[..., [3], :]
        )


def test_rollout_never_exceeds_flow():
    edges = RNG.exponential(size=(3, 5, 6, 6)).astype(np.float32)
    trace, weight = given(edges)
    rolled = np.asarray(aggregate(trace, weight, "rollout"))
    flowing = aggregate(trace, weight, "flow")
    assert (rolled <= flowing + 1e-5).all()
    np.testing.assert_allclose(rolled[:, 0], flowing[:, 0], atol=1e-6)


def test_capacities_are_rows_that_sum_to_one():
    edges = jnp.asarray(RNG.normal(size=(3, 4, 4)), jnp.float32)
    mask = jnp.array([True, True, True, False])
    rows = np.asarray(capacities(edges, held=False, mask=mask))
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows[:, :3].sum(-1), row_sums_without(edges), atol=1e-6)
    assert not rows[:, 3].any()
    assert not rows[:, :, 3].any()
    assert (np.asarray(row_normalised(jnp.zeros((2, 2)))) == 0).all()


def row_sums_without(edges):
    """Row sums left after the last key is masked away: what it took is gone."""
    rows = np.maximum(np.asarray(edges), 0)
    rows = rows / rows.sum(-1, keepdims=True)
    return 1 - 0.5 * rows[:, :3, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", edge_weights())
def test_every_edge_weight_goes_through_every_aggregator(kind, name):
    trace, edge = traced(kind), edge_weight(name)
    n = trace.attention.shape[-1]
    layers = trace.attention.shape[-4]
    mask = np.asarray(trace.mask)
    if name == "effective":  # heads as wide as these sentences are long; see test_effective.py
        with pytest.raises(InputError, match="effective attention needs a sentence of more tokens"):
            weigh(trace, name)
        return
    edges = np.asarray(weigh(trace, name))
    assert edges.shape == (2, layers, n, n)
    assert np.isfinite(edges).all()
    assert edge.signed or (edges >= 0).all()
    assert not edges[1, :, ~mask[1]].any()
    assert not edges[1, :, :, ~mask[1]].any()
    for how in AGGREGATORS:
        found = np.asarray(aggregate(trace, name, how, sources=0))
        assert found.shape == (2, layers, 1, n)
        assert np.isfinite(found).all()
        assert not found[1, ..., ~mask[1]].any()
        if how == "rollout":
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert edge.source
    assert edge.title


def test_unknown_names_and_missing_parts_are_named():
    trace = Trace(np.full((1, 1, 2, 2), 0.5, np.float32))
    with pytest.raises(InputError, match=r"edge weight must be one of .*raw.*, got 'rav'"):
        aggregate(trace, "rav")
    with pytest.raises(InputError, match=r"aggregator must be one of none, rollout, .* got 'sum'"):
        aggregate(trace, "raw", "sum")
    with pytest.raises(
        InputError, match="edge weight norm needs value vectors and hidden states and the blocks'"
    ):
        aggregate(trace, "norm")
