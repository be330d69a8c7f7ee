"""Gradient scores: closed forms for linear and quadratic functions, else finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import DTYPES, Foreign

import jaxflow

METHODS: dict[str, Callable[..., Any]] = {
    "input_gradient": jaxflow.input_gradient,
    "gradient_x_input": jaxflow.gradient_x_input,
    "integrated_gradients": jaxflow.integrated_gradients,
}
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3))
MATRIX = RNG.normal(size=(12, 12))
EMBEDDINGS = RNG.normal(size=(5, 4, 3))


def linear(embeddings: jax.Array) -> jax.Array:
    return jnp.einsum("...nd,nd->...", embeddings, jnp.asarray(WEIGHTS, embeddings.dtype))


def quadratic(embeddings: jax.Array) -> jax.Array:
    flat = embeddings.reshape(*embeddings.shape[:-2], -1)
    matrix = jnp.asarray(MATRIX, embeddings.dtype)
    return jnp.einsum("...i,ij,...j->...", flat, matrix, flat)


def smooth(embeddings: jax.Array) -> jax.Array:
    """A small network: every token and coordinate interacts with every other."""
    flat = embeddings.reshape(*embeddings.shape[:-2], -1)
    hidden = jnp.tanh(jnp.einsum("...i,ij->...j", flat, jnp.asarray(MATRIX, flat.dtype) / 4))
    return jax.nn.softmax(hidden)[..., 0] - jax.nn.softmax(hidden)[..., 1]


def plain_smooth(embeddings: np.ndarray) -> float:
    hidden = np.tanh(embeddings.reshape(-1) @ MATRIX / 4)
    weights = np.exp(hidden)
    return float((weights[0] - weights[1]) / weights.sum())


def tolerance(dtype: type) -> float:
    return 2e-5 if dtype == np.float32 else 1e-12


def draw(seed: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(5, 4, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_score_has_closed_forms(dtype: type) -> None:
    embeddings, baseline = draw(1, dtype), draw(2, dtype)
    atol = tolerance(dtype)
    slope = np.broadcast_to(WEIGHTS.sum(-1), (5, 4))
    np.testing.assert_allclose(jaxflow.input_gradient(linear, embeddings), slope, atol=atol)
    share = (WEIGHTS * embeddings).sum(-1)
    np.testing.assert_allclose(jaxflow.gradient_x_input(linear, embeddings), share, atol=atol)
    np.testing.assert_allclose(
        jaxflow.integrated_gradients(linear, embeddings, steps=1), share, atol=atol
    )
    np.testing.assert_allclose(
        jaxflow.integrated_gradients(linear, embeddings, baseline, steps=2),
        (WEIGHTS * (embeddings - baseline)).sum(-1),
        atol=atol,
    )


def test_quadratic_score_has_closed_forms() -> None:
    embeddings, baseline = draw(3, np.float64), draw(4, np.float64)[0]
    both = MATRIX + MATRIX.T
    slope = (embeddings.reshape(5, 12) @ both).reshape(5, 4, 3)
    result = jaxflow.input_gradient(quadratic, embeddings)
    np.testing.assert_allclose(result, slope.sum(-1), atol=1e-12)
    # The gradient is linear along the path, so that its mean is its value half-way.
    half = ((embeddings + baseline).reshape(5, 12) / 2 @ both).reshape(5, 4, 3)
    result = jaxflow.integrated_gradients(quadratic, embeddings, baseline, steps=1)
    np.testing.assert_allclose(result, ((embeddings - baseline) * half).sum(-1), atol=1e-12)


def test_against_finite_differences() -> None:
    gradients = np.stack(
        [oracles.finite_differences(plain_smooth, sentence) for sentence in EMBEDDINGS]
    )
    result = jaxflow.input_gradient(smooth, EMBEDDINGS)
    np.testing.assert_allclose(result, gradients.sum(-1), atol=1e-9)
    result = jaxflow.gradient_x_input(smooth, EMBEDDINGS)
    np.testing.assert_allclose(result, (gradients * EMBEDDINGS).sum(-1), atol=1e-9)


def test_integrated_gradients_against_a_riemann_sum() -> None:
    sentence, baseline, steps = EMBEDDINGS[0], EMBEDDINGS[1], 400
    total = np.zeros((4, 3))
    for step in range(steps):
        point = baseline + (step + 0.5) / steps * (sentence - baseline)
        total += oracles.finite_differences(plain_smooth, point) / steps
    expected = ((sentence - baseline) * total).sum(-1)
    result = jaxflow.integrated_gradients(smooth, sentence, baseline)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("seed", [5, 6])
def test_integrated_gradients_are_complete(seed: int) -> None:
    embeddings, baseline = draw(seed, np.float64), draw(7, np.float64)[0]
    scores = jaxflow.integrated_gradients(smooth, embeddings, baseline, steps=64)
    change = [plain_smooth(sentence) - plain_smooth(baseline) for sentence in embeddings]
    np.testing.assert_allclose(scores.sum(-1), change, atol=1e-6)
    gap = jaxflow.completeness_gap(smooth, embeddings, scores, baseline)
    np.testing.assert_allclose(gap, np.abs(scores.sum(-1) - change), atol=1e-12)


def test_more_steps_close_the_completeness_gap() -> None:
    gaps = [
        jaxflow.completeness_gap(
            smooth, EMBEDDINGS, jaxflow.integrated_gradients(smooth, EMBEDDINGS, steps=steps)
        ).max()
        for steps in (1, 4, 32)
    ]
    assert gaps[0] > 1e-3 > gaps[1] > 1e-8 > gaps[2]


def test_completeness_gap_sees_a_wrong_attribution() -> None:
    gap = jaxflow.completeness_gap(linear, EMBEDDINGS, np.zeros((5, 4)))
    np.testing.assert_allclose(gap, np.abs((WEIGHTS * EMBEDDINGS).sum((-1, -2))), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_sentences_one_by_one(method: str) -> None:
    result = METHODS[method](smooth, EMBEDDINGS[:2])
    for sentence, expected in zip(EMBEDDINGS[:2], result, strict=True):
        np.testing.assert_allclose(METHODS[method](smooth, sentence), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_vmap_and_jit_change_nothing(method: str) -> None:
    device = jnp.asarray(EMBEDDINGS, jnp.float32)
    expected = METHODS[method](smooth, device)

    def attribute(embeddings: jax.Array) -> jax.Array:
        return METHODS[method](smooth, embeddings)

    np.testing.assert_allclose(jax.jit(attribute)(device), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(attribute)(device), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_traced_score_of_fixed_embeddings(method: str) -> None:
    """Host embeddings inside ``jit``, where what the score closes over has no values yet."""
    embeddings = EMBEDDINGS.astype(np.float32)

    def attribute(scale: jax.Array) -> jax.Array:
        return METHODS[method](lambda values: scale * linear(values), embeddings)

    result = jax.jit(attribute)(jnp.float32(2))
    np.testing.assert_allclose(result, 2 * METHODS[method](linear, embeddings), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_precision_and_home_of_the_result(method: str) -> None:
    for dtype in DTYPES:
        values = EMBEDDINGS.astype(dtype)
        for embeddings in (values, Foreign(values)):
            result = METHODS[method](linear, embeddings)
            assert isinstance(result, np.ndarray)
            assert result.dtype == dtype
    on_device = METHODS[method](linear, jnp.asarray(EMBEDDINGS, jnp.float32))
    assert isinstance(on_device, jax.Array)
    assert on_device.dtype == jnp.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("embeddings", "complaint"),
    [
        (np.ones(3), r"embeddings must have the shape .* \(3,\)"),
        (np.ones((4, 3), int), "embeddings must be floating point, got int64"),
        ("the words", "embeddings must"),
    ],
)
def test_unusable_embeddings_are_named(method: str, embeddings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        METHODS[method](linear, embeddings)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_of_another_shape_is_named(method: str) -> None:
    with pytest.raises(ValueError, match=r"score must return one number an example, shape \(5,\)"):
        METHODS[method](lambda embeddings: embeddings.sum(-1), EMBEDDINGS)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None])
def test_impossible_steps_are_named(steps: Any) -> None:
    with pytest.raises(ValueError, match="steps must be a positive whole number"):
        jaxflow.integrated_gradients(linear, EMBEDDINGS, steps=steps)


def test_a_baseline_or_attribution_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match="baseline must broadcast"):
        jaxflow.integrated_gradients(linear, EMBEDDINGS, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"attribution must have the shape \(5, 4\)"):
        jaxflow.completeness_gap(linear, EMBEDDINGS, np.ones((5, 3)))
