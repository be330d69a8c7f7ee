"""The layers against Flax's own, and their written-out derivatives against automatic ones."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxflow.models.layers import ACTIVATIONS, PLAIN, TRAINING, Layers

RNG = np.random.default_rng(0)
SHAPES = [(7,), (5, 7), (2, 3, 5, 7)]


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def arguments(name, shape):
    if name == "layer_norm":
        return 3 * normal(*shape) + 2, normal(shape[-1]), normal(shape[-1])
    if name.endswith("gelu"):
        return (3 * normal(*shape),)
    return normal(*shape), normal(*shape[:-2], shape[-1], 4)


@pytest.mark.parametrize("layers", [PLAIN, TRAINING])
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_is_that_of_flax(layers, shape):
    values, scale, bias = arguments("layer_norm", shape)
    module = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    expected = module.apply({"params": {"scale": scale, "bias": bias}}, values)
    np.testing.assert_allclose(layers.layer_norm(values, scale, bias), expected, atol=2e-6)


@pytest.mark.parametrize("layers", [PLAIN, TRAINING])
def test_gelu_is_that_of_jax(layers):
    values = jnp.linspace(-8, 8, 101)
    np.testing.assert_allclose(layers.gelu(values), jax.nn.gelu(values), atol=1e-6)


@pytest.mark.parametrize("layers", [PLAIN, TRAINING])
def test_exact_gelu_is_that_of_scipy(layers):
    values = np.linspace(-8, 8, 101)
    np.testing.assert_allclose(
        layers.exact_gelu(jnp.asarray(values, jnp.float32)), values * norm.cdf(values), atol=2e-6
    )


@pytest.mark.parametrize("layers", [PLAIN, TRAINING])
def test_layer_norm_takes_another_epsilon(layers):
    values, scale, bias = (jnp.asarray(part) for part in ([[1.0, 3.0]], [2.0, 2.0], [1.0, 1.0]))
    found = layers.layer_norm(values, scale, bias, 3.0)  # deviation 1 over the root of 1 + 3
    np.testing.assert_allclose(found, [[0.0, 2.0]], atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_their_names(name):
    def named(values):
        wanted = {"gelu": partial(jax.nn.gelu, approximate=False), "relu": nn.relu, "silu": nn.silu}
        return wanted.get(name, jax.nn.gelu)(values)

    values = jnp.linspace(-6, 6, 41)
    np.testing.assert_allclose(PLAIN.activation(name)(values), named(values), atol=1e-6)


@pytest.mark.parametrize("layers", [PLAIN, TRAINING])
def test_product_is_that_of_numpy(layers):
    left, right = arguments("product", (2, 3, 5, 7))
    np.testing.assert_allclose(
        layers.product(left, right), np.asarray(left) @ np.asarray(right), atol=1e-5
    )


@pytest.mark.parametrize("name", Layers._fields)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_derivatives_are_the_automatic_ones(name, shape):
    given = arguments(name, shape)
    plain, written = getattr(PLAIN, name), getattr(TRAINING, name)
    pull = normal(*jax.eval_shape(plain, *given).shape)
    expected = jax.vjp(plain, *given)[1](pull)
    found = jax.jit(lambda *values: jax.vjp(written, *values)[1](pull))(*given)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", Layers._fields)
def test_plain_layers_have_forward_derivatives(name):
    given = arguments(name, (5, 7))
    tangents = tuple(normal(*part.shape) for part in given)
    _, along = jax.jvp(getattr(PLAIN, name), given, tangents)
    small = 1e-2
    ends = [
        getattr(PLAIN, name)(*(a + s * small * t for a, t in zip(given, tangents, strict=True)))
        for s in (1, -1)
    ]
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * small), atol=2e-2, rtol=1e-2)
