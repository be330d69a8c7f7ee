"""Test flow under JAX's transformations: equal values, derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, pad_end
from oracles import finite_differences
from session import refused

import jaxflow
from jaxflow._flow.threads import cut_tables, flow_tables
from jaxflow.attention import edge_weights


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def scores(seed, layers=4, heads=2, n=5):
    return np.random.default_rng(seed).normal(size=(layers, heads, n, n))


def test_jit_gives_the_same_table():
    attention = attention_of("dense", 0, (4, 2, 6, 6))
    traced = jax.jit(lambda a: jaxflow.flow(a, layers=[-1, 1], sources=0))(jnp.asarray(attention))
    assert isinstance(traced, jax.Array)
    assert traced.dtype == jnp.float64
    assert (traced == jaxflow.flow(attention, layers=[-1, 1], sources=0)).all()
    with jax.enable_x64(False):
        single = jax.jit(jaxflow.flow)(jnp.asarray(attention, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, jaxflow.flow(attention), rtol=0, atol=1e-6)


def test_vmap_over_sentences_masks_and_residuals():
    batch, mask = pad_end(attention_of("dense", 1, (3, 3, 2, 4, 4)), 2)
    residuals = np.array([0.5, 0.2, 0.9])
    traced = jax.vmap(lambda a, m, r: jaxflow.flow(a, mask=m, residual=r))(batch, mask, residuals)
    for one, real, share, table in zip(batch, mask, residuals, traced, strict=True):
        alone = jaxflow.flow(one, mask=real, residual=float(share))
        np.testing.assert_allclose(table, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", ["mean", "max", 1])
def test_gradient_through_softmax_heads_and_residual(heads):
    pulls = np.random.default_rng(1).normal(size=(2, 2, 5))

    def loss(values, share=0.5):
        options = {"heads": heads, "layers": [3, 1], "sources": [0, 2], "residual": share}
        return (jaxflow.flow(jax.nn.softmax(values), **options) * pulls).sum()

    values = scores(1)
    numeric = finite_differences(lambda v: float(loss(jnp.asarray(v))), values)
    np.testing.assert_allclose(jax.grad(loss)(values), numeric, rtol=0, atol=1e-7)
    numeric = (loss(values, 0.4 + 1e-6) - loss(values, 0.4 - 1e-6)) / 2e-6
    found = jax.grad(loss, argnums=1)(values, 0.4)
    assert float(found) == pytest.approx(float(numeric), rel=1e-6)


@pytest.mark.parametrize("kind", sorted(set(FLOW_KINDS) - {"tiny"}))
@pytest.mark.parametrize(("layers", "n"), [(2, 12), (6, 9)])
def test_every_pair_along_a_direction(kind, layers, n):
    rng = np.random.default_rng([layers, n])
    edges = edge_weights(attention_of(kind, rng, (layers, 1, n, n)))
    # Weights that are tied have several smallest cuts; a nudge leaves one. What is not there stays
    # away, as after a causal mask, and rows go on summing to 1.
    edges *= rng.uniform(0.9, 1.1, edges.shape)
    edges /= edges.sum(-1, keepdims=True)
    direction = rng.normal(size=edges.shape) * edges
    direction -= direction.sum(-1, keepdims=True) * edges
    every, sources, step = tuple(range(layers)), tuple(range(0, n, n // 4)), 1e-7
    ends = [flow_tables(edges + sign * step * direction, every, sources, 1) for sign in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * step)
    for at, place, sink in np.ndindex(numeric.shape):
        pulls = np.zeros((1, 1, n))
        pulls[0, 0, sink] = 1
        cut = cut_tables(edges, (at,), (sources[place],), pulls, 1)
        assert (cut * direction).sum() == pytest.approx(numeric[at, place, sink], rel=0, abs=1e-6)


def test_gradient_under_jit_and_vmap_with_padding():
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    values = np.stack([scores(7), scores(8)])

    def loss(values, real):
        attention = jax.nn.softmax(jnp.where(real, values, -jnp.inf))
        return jaxflow.flow(attention, mask=real, sources=0)[-1].sum()

    traced = jax.jit(jax.vmap(jax.grad(loss)))(values, mask)
    for one, real, gradient in zip(values, mask, traced, strict=True):
        numeric = finite_differences(lambda v, real=real: float(loss(v, jnp.asarray(real))), one)
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-7)


def test_at_a_kink_a_subgradient():
    # The two edges of the only path are equally narrow: either may be the bottleneck.
    attention = jnp.asarray(np.broadcast_to(np.eye(2)[[1, 0]], (2, 1, 2, 2)))

    def value(attention):
        return jaxflow.flow(attention, residual=0.0, layers=1, sources=0)[0, 0, 0]

    gradient = jax.grad(value)(attention)
    assert gradient[1, 0, 0, 1] == 1
    assert gradient.sum() == 1


def test_traced_input_is_checked_as_far_as_it_can_be():
    with refused("square"):
        jax.jit(jaxflow.flow)(jnp.ones((2, 1, 3, 4)))
    with refused("sources must be an index"):
        jax.jit(lambda a: jaxflow.flow(a, sources=9))(jnp.full((2, 1, 3, 3), 1 / 3))
    # Values cannot be checked; what is not a number stays visible.
    attention = jnp.full((2, 2, 1, 3, 3), 1 / 3).at[0, 0, 0, 0, 0].set(jnp.nan)
    table = jax.jit(jaxflow.flow)(attention)
    assert jnp.isnan(table[0]).all()
    assert jnp.isfinite(table[1]).all()
