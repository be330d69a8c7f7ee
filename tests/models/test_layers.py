"""Test layers against Flax's, and their derivatives against automatic ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.models.layers import PLAIN, TRAINING, Layers

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def arguments(name, shape):
    if name == "layer_norm":
        return 3 * normal(*shape) + 2, normal(shape[-1]), normal(shape[-1])
    if name.endswith("gelu"):
        return (3 * normal(*shape),)
    return normal(*shape), normal(*shape[:-2], shape[-1], 4)


@pytest.mark.parametrize("epsilon", [1e-5, 3.0])
def test_layer_norm_is_that_of_flax(epsilon):
    values, scale, bias = arguments("layer_norm", (2, 3, 5, 7))
    module = nn.LayerNorm(epsilon=epsilon, use_fast_variance=False)
    expected = module.apply({"params": {"scale": scale, "bias": bias}}, values)
    np.testing.assert_allclose(PLAIN.layer_norm(values, scale, bias, epsilon), expected, atol=2e-6)


@pytest.mark.parametrize("name", Layers._fields)
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 5, 7)])
def test_training_has_the_values_and_derivatives_of_plain(name, shape):
    given = arguments(name, shape)
    plain, written = getattr(PLAIN, name), getattr(TRAINING, name)
    values, pulled = jax.vjp(plain, *given)
    pull = normal(*values.shape)
    found = jax.jit(lambda *parts: (written(*parts), *jax.vjp(written, *parts)[1](pull)))(*given)
    for one, other in zip(found, (values, *pulled(pull)), strict=True):
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
