"""SmoothGrad: its mean by hand, and what noise must and must not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow.errors import InputError
from jaxflow.gradients import smooth_grad

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(2, 4, 3))
KEY = jax.random.key(3)


def cubic(embeddings):
    return (embeddings**3).sum((-2, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_mean_over_the_copies(dtype):
    given = EMBEDDINGS.astype(dtype)
    found = smooth_grad(cubic, given, KEY, 5, 0.2)
    assert found.dtype == dtype
    total = np.zeros(given.shape)
    with jax.enable_x64(dtype == np.float64):
        for key in jax.random.split(KEY, 5):
            noise = np.asarray(jax.random.normal(key, given.shape, dtype), np.float64)
            for row in range(2):
                span = given[row].max() - given[row].min()
                total[row] += 3 * (given[row] + 0.2 * span * noise[row]) ** 2
    expected = np.linalg.norm(total / 5, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_many_copies_reach_the_expectation():
    """The gradient of a cube is 3 x², its mean under noise 3 (x² + σ²)."""
    given = jnp.asarray(EMBEDDINGS[:1], jnp.float32)
    found = smooth_grad(cubic, given, KEY, 4000, 0.1)
    sigma = 0.1 * (EMBEDDINGS[0].max() - EMBEDDINGS[0].min())
    expected = np.linalg.norm(3 * (EMBEDDINGS[:1] ** 2 + sigma**2), axis=-1)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_without_noise_it_is_the_norm_of_the_gradient():
    found = smooth_grad(cubic, EMBEDDINGS, KEY, 3, 0)
    np.testing.assert_allclose(found, jaxflow.gradient_norm(cubic, EMBEDDINGS), rtol=1e-12)


def test_padding_has_no_say_and_no_score():
    mask = np.array([[True, True, True, False]] * 2)
    wild = EMBEDDINGS.copy()
    wild[:, 3] = 100
    found = smooth_grad(cubic, wild, KEY, 4, mask=mask)
    tame = smooth_grad(cubic, EMBEDDINGS, KEY, 4, mask=mask)
    assert not found[:, 3].any()
    np.testing.assert_allclose(found, tame, rtol=1e-12)
    nothing = smooth_grad(cubic, EMBEDDINGS, KEY, 4, mask=np.zeros((2, 4), bool))
    assert not nothing.any()


def test_it_runs_under_jit():
    given = jnp.asarray(EMBEDDINGS, jnp.float32)
    plain = smooth_grad(cubic, given, KEY, 4)
    jitted = jax.jit(lambda values, key: smooth_grad(cubic, values, key, 4))(given, KEY)
    np.testing.assert_allclose(jitted, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"samples": 0}, "samples must be a positive whole number, got 0"),
        ({"samples": True}, "samples must be a positive whole number"),
        ({"noise": -1}, "noise must be a number of at least 0, got -1"),
        ({"noise": "much"}, "noise must be a number of at least 0"),
        ({"mask": np.ones(4, bool)}, r"mask must be boolean of shape \(2, 4\)"),
    ],
)
def test_unusable_input_is_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        smooth_grad(cubic, EMBEDDINGS, KEY, **options)
