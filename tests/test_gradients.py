"""Test gradient scores against closed forms and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import DTYPES, Foreign
from session import refused

import jaxflow

KEY = jax.random.key(3)
METHODS = {
    "input_gradient": jaxflow.input_gradient,
    "gradient_x_input": jaxflow.gradient_x_input,
    "integrated_gradients": jaxflow.integrated_gradients,
    "gradient_norm": jaxflow.gradient_norm,
    "smooth_grad": partial(jaxflow.smooth_grad, key=KEY, samples=2),
}
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3))
MATRIX = RNG.normal(size=(12, 12))
EMBEDDINGS, BASELINE = RNG.normal(size=(5, 4, 3)), RNG.normal(size=(4, 3))


def linear(embeddings):
    return jnp.einsum("...nd,nd->...", embeddings, jnp.asarray(WEIGHTS, embeddings.dtype))


def smooth(embeddings):
    """A small network: every token and coordinate interacts with every other."""
    flat = embeddings.reshape(*embeddings.shape[:-2], -1)
    hidden = jnp.tanh(jnp.einsum("...i,ij->...j", flat, jnp.asarray(MATRIX, flat.dtype) / 4))
    return jax.nn.softmax(hidden)[..., 0] - jax.nn.softmax(hidden)[..., 1]


def plain_smooth(embeddings):
    hidden = np.tanh(embeddings.reshape(-1) @ MATRIX / 4)
    weights = np.exp(hidden)
    return float((weights[0] - weights[1]) / weights.sum())


def cubic(embeddings):
    return (embeddings**3).sum((-2, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_score_has_closed_forms(dtype):
    embeddings, baseline = EMBEDDINGS.astype(dtype), BASELINE.astype(dtype)
    atol = 2e-5 if dtype == np.float32 else 1e-12
    share = (WEIGHTS * embeddings).sum(-1)
    between = (WEIGHTS * (embeddings - baseline)).sum(-1)
    for found, expected in (
        (jaxflow.input_gradient(linear, embeddings), WEIGHTS.sum(-1)),
        (jaxflow.gradient_norm(linear, embeddings), np.linalg.norm(WEIGHTS, axis=-1)),
        (jaxflow.gradient_x_input(linear, embeddings), share),
        (jaxflow.integrated_gradients(linear, embeddings, steps=1), share),
        (jaxflow.integrated_gradients(linear, embeddings, baseline, steps=2), between),
    ):
        np.testing.assert_allclose(found, np.broadcast_to(expected, (5, 4)), atol=atol)


def test_against_finite_differences():
    gradients = np.stack([oracles.finite_differences(plain_smooth, each) for each in EMBEDDINGS])
    for method, expected in {
        jaxflow.input_gradient: gradients.sum(-1),
        jaxflow.gradient_norm: np.linalg.norm(gradients, axis=-1),
        jaxflow.gradient_x_input: (gradients * EMBEDDINGS).sum(-1),
    }.items():
        np.testing.assert_allclose(method(smooth, EMBEDDINGS), expected, atol=1e-9)


def test_integrated_gradients_against_a_riemann_sum_and_their_completeness():
    way, steps, total = EMBEDDINGS[0] - BASELINE, 400, np.zeros((4, 3))
    for step in range(steps):
        point = BASELINE + (step + 0.5) / steps * way
        total += oracles.finite_differences(plain_smooth, point) / steps
    found = jaxflow.integrated_gradients(smooth, EMBEDDINGS[0], BASELINE)
    np.testing.assert_allclose(found, (way * total).sum(-1), atol=1e-5)
    change = [plain_smooth(each) - plain_smooth(BASELINE) for each in EMBEDDINGS]
    gaps = []
    for steps in (1, 64):
        scores = jaxflow.integrated_gradients(smooth, EMBEDDINGS, BASELINE, steps)
        gap = jaxflow.completeness_gap(smooth, EMBEDDINGS, scores, BASELINE)
        np.testing.assert_allclose(gap, np.abs(scores.sum(-1) - change), atol=1e-12)
        gaps.append(gap.max())
    assert gaps[0] > 1e-3
    assert gaps[1] < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_smooth_grad_is_the_mean_over_the_copies(dtype):
    given = EMBEDDINGS.astype(dtype)
    found = jaxflow.smooth_grad(cubic, given, KEY, 5, 0.2)
    total = np.zeros(given.shape)
    with jax.enable_x64(dtype == np.float64):
        for key in jax.random.split(KEY, 5):
            noise = np.asarray(jax.random.normal(key, given.shape, dtype), np.float64)
            for row in range(5):
                span = given[row].max() - given[row].min()
                total[row] += 3 * (given[row] + 0.2 * span * noise[row]) ** 2
    expected = np.linalg.norm(total / 5, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_smooth_grad_leaves_padding_out():
    mask = np.array([[True, True, True, False]] * 5)
    wild = EMBEDDINGS.copy()
    wild[:, 3] = 100
    found = jaxflow.smooth_grad(cubic, wild, KEY, 4, mask=mask)
    assert not found[:, 3].any()
    tame = jaxflow.smooth_grad(cubic, EMBEDDINGS, KEY, 4, mask=mask)
    np.testing.assert_allclose(found, tame, rtol=1e-12)
    assert not jaxflow.smooth_grad(cubic, EMBEDDINGS, KEY, 4, mask=np.zeros((5, 4), bool)).any()


@pytest.mark.parametrize("method", METHODS)
def test_batches_transformations_precision_and_home_of_the_result(method):
    attribute = METHODS[method]
    single = EMBEDDINGS.astype(np.float32)
    for values in (EMBEDDINGS, single, Foreign(single)):
        found = attribute(linear, values)
        assert (type(found), found.dtype) == (np.ndarray, np.asarray(values).dtype)
    device = jnp.asarray(single)
    expected = attribute(smooth, device)
    assert isinstance(expected, jax.Array)
    assert expected.dtype == jnp.float32
    found = jax.jit(lambda given: attribute(smooth, given))(device)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if method != "smooth_grad":  # one key draws other noise for one sentence than for five
        np.testing.assert_allclose(attribute(smooth, single[1]), expected[1], atol=1e-6)
        found = jax.vmap(lambda given: attribute(smooth, given))(device)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # Host embeddings inside ``jit``, where what the score closes over has no values yet.
    scaled = jax.jit(lambda scale: attribute(lambda given: scale * linear(given), single))
    np.testing.assert_allclose(scaled(2.0), 2 * attribute(linear, single), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_unusable_embeddings_and_scores_are_named(method):
    for embeddings, complaint in (
        (np.ones(3), r"embeddings must have the shape .* \(3,\)"),
        (np.ones((4, 3), int), "embeddings must be floating point, got int64"),
        ("the words", "embeddings must"),
    ):
        with refused(complaint):
            METHODS[method](linear, embeddings)
    with refused(r"score must return one number an example, shape \(5,\)"):
        METHODS[method](lambda given: given.sum(-1), EMBEDDINGS)


@pytest.mark.parametrize(
    ("function", "arguments", "complaint"),
    [
        (jaxflow.integrated_gradients, (None, 0), "steps must be a positive whole number"),
        (jaxflow.integrated_gradients, (None, True), "steps must be a positive whole number"),
        (jaxflow.integrated_gradients, (np.ones((2, 3)),), "baseline must broadcast"),
        (jaxflow.completeness_gap, (np.ones((5, 3)),), r"attribution must have the shape \(5, 4\)"),
        (jaxflow.smooth_grad, (KEY, 0), "samples must be a positive whole number, got 0"),
        (jaxflow.smooth_grad, (KEY, 2, -1), "noise must be a number of at least 0, got -1"),
        (jaxflow.smooth_grad, (KEY, 2, "much"), "noise must be a number of at least 0"),
    ],
)
def test_unusable_options_are_named(function, arguments, complaint):
    with refused(complaint):
        function(linear, EMBEDDINGS, *arguments)
    with refused(r"mask must be boolean of shape \(5, 4\)"):
        jaxflow.smooth_grad(linear, EMBEDDINGS, KEY, mask=np.ones(4, bool))
