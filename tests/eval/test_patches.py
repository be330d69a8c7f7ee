"""Occlusion and gradients by patch: against loops, finite differences and a model made by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from vision_models import bright_patch_model, bright_picture, random_model

from jaxflow.eval.explain.patches import occluded, occlusion_maps, patch_gradients, probability_drop
from jaxflow.eval.explain.pixels import to_pixels
from jaxflow.models import ViTConfig

RNG = np.random.default_rng(0)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_patches_are_hidden_row_by_row() -> None:
    config = ViTConfig(image=(4, 6), patch=2, channels=1, labels=("a",), mean=(0.2,), std=(0.5,))
    pixels = np.arange(24, dtype=np.float32).reshape(4, 6, 1)
    fills = {"mean": 11.5, "grey": 0.6, "black": -0.4}
    for fill, value in fills.items():
        copies = occluded(pixels, config, fill)  # type: ignore[arg-type]
        assert copies.shape == (6, 4, 6, 1)
        fifth = pixels.copy()
        fifth[2:4, 2:4] = value
        np.testing.assert_allclose(copies[4], fifth, rtol=1e-6)
        for copy in copies:
            assert (copy != pixels).sum() == 4
    np.testing.assert_array_equal(pixels, np.arange(24).reshape(4, 6, 1))
    with pytest.raises(ValueError, match="fill must be mean, grey or black, got 'noise'"):
        occluded(pixels, config, "noise")  # type: ignore[arg-type]


def test_colours_are_hidden_by_channel() -> None:
    config = ViTConfig(image=(2, 4), patch=2, labels=("a",))
    pixels = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    hidden = occluded(pixels, config)[0, 0, 1]
    np.testing.assert_allclose(hidden, pixels.reshape(-1, 3).mean(0), rtol=1e-5)


def test_the_drop_is_that_of_the_softmax() -> None:
    whole, without = RNG.normal(size=4), RNG.normal(size=(5, 4))
    expected = softmax(whole)[2] - softmax(without)[:, 2]
    np.testing.assert_allclose(probability_drop(whole, without, 2), expected, atol=1e-15)


def test_drops_of_a_probability_near_one_are_told_apart() -> None:
    """In float32 all of these probabilities are 1."""
    whole = np.array([30.0, 0.0], np.float32)
    without = np.array([[29.0, 0.0], [28.0, 0.0]], np.float32)
    assert (softmax(without)[:, 0].astype(np.float32) == 1).all()
    drops = probability_drop(whole, without, 0)
    expected = [np.exp(-29.0) - np.exp(-30.0), np.exp(-28.0) - np.exp(-30.0)]
    np.testing.assert_allclose(drops, expected, rtol=1e-6)


def test_occlusion_against_one_call_a_patch() -> None:
    model = random_model()
    pixels = RNG.normal(size=(3, 4, 6, 3)).astype(np.float32)
    labels = np.array([0, 2, 1])
    done: list[tuple[int, int]] = []
    maps = occlusion_maps(
        model, pixels, labels, fill="grey", report=lambda now, of: done.append((now, of))
    )
    assert maps.shape == (3, 2, 3)
    assert done == [(1, 3), (2, 3), (3, 3)]
    for image, label, found in zip(pixels, labels, maps, strict=True):
        for row, column in np.ndindex(2, 3):
            hidden = image.copy()
            hidden[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0  # normalised grey
            before, after = np.asarray(model.probabilities(np.stack([image, hidden])), np.float64)
            assert found[row, column] == pytest.approx(before[label] - after[label], abs=1e-6)
    assert np.abs(maps).max() > 0.01


def test_many_patches_are_seen_in_several_batches() -> None:
    model = random_model(image=(18, 20), layers=1)
    pixels = RNG.normal(size=(1, 18, 20, 3)).astype(np.float32)
    (found,) = occlusion_maps(model, pixels, np.array([1]))
    copies = np.concatenate([pixels, occluded(pixels[0], model.config)])  # type: ignore[arg-type]
    probabilities = np.asarray(model.probabilities(copies), np.float64)[:, 1]
    np.testing.assert_allclose(found.ravel(), probabilities[0] - probabilities[1:], atol=1e-6)


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_gradients_against_finite_differences(readout: str) -> None:
    model = random_model(width=4, image=(4, 4), readout=readout)
    pixels = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = np.array([2, 0])
    found = patch_gradients(model, pixels, labels)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), model.params)
        run = jax.jit(lambda given: model.module.apply(params, given, method="encode").logits)
        embedded = np.asarray(
            model.module.apply(params, jnp.asarray(pixels, jnp.float64), method="embed")
        )
        for place, label in enumerate(labels):
            gradient = oracles.finite_differences(
                lambda given, label=label: run(given[None])[0, label],  # type: ignore[misc]
                embedded[place],
            )
            expected = np.linalg.norm(gradient[1:], axis=-1).reshape(2, 2)
            np.testing.assert_allclose(found[place], expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_the_only_patch_that_matters_is_found(readout: str) -> None:
    model = bright_patch_model(readout)  # type: ignore[arg-type]
    places = [(0, 1), (2, 2)]
    pixels = np.stack([to_pixels(bright_picture(*place), model.config) for place in places])  # type: ignore[arg-type]
    classes = np.asarray(model(pixels).logits).argmax(-1)
    np.testing.assert_array_equal(classes, [1, 1])
    maps = occlusion_maps(model, pixels, classes, fill="black")
    gradients = patch_gradients(model, pixels, classes)
    for place, drops, norms in zip(places, maps, gradients, strict=True):
        assert drops[place] > 0.5
        others = np.delete(drops.ravel(), 3 * place[0] + place[1])
        np.testing.assert_array_equal(others, 0)
        assert norms[place] > 0
        assert np.delete(norms.ravel(), 3 * place[0] + place[1]).max() < 1e-6 * norms[place]
