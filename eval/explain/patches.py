"""References for attributions of images, from the model itself: occlusion, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explain.pixels import vision_config
from jaxflow.models import Model, ViTConfig

__all__ = ["Fill", "occluded", "occlusion_maps", "patch_gradients", "probability_drop"]

Fill = Literal["mean", "grey", "black"]
"""What a hidden patch shows: the image's own mean colour, the middle between black and white, or
black."""

_AT_ONCE = 64  # images the model sees at a time


def occluded(pixels: NDArray, config: ViTConfig, fill: Fill = "mean") -> NDArray[np.float32]:
    """Hide each patch of an image in turn.

    Parameters
    ----------
    pixels
        ``[H, W, C]``, normalised.
    config
        The model's: its patches and what pixels were normalised by.
    fill
        What a hidden patch shows.

    Returns
    -------
    array
        float32 ``[P, H, W, C]``, patches row by row.

    Raises
    ------
    InputError
        If there is no such fill.
    """
    if fill == "mean":
        colour = pixels.mean((0, 1), dtype=np.float64)
    elif fill in ("grey", "black"):
        value = 0.5 if fill == "grey" else 0.0
        colour = (value - np.array(config.mean)) / np.array(config.std)
    else:
        raise InputError(f"fill must be mean, grey or black, got {fill!r}")
    (rows, columns), side = config.grid, config.patch
    copies = np.repeat(np.asarray(pixels, np.float32)[None], rows * columns, 0)
    for place, copy in enumerate(copies):
        top, left = side * (place // columns), side * (place % columns)
        copy[top : top + side, left : left + side] = colour
    return copies


def probability_drop(
    whole: NDArray[np.floating], without: NDArray[np.floating], label: int
) -> NDArray[np.float64]:
    r"""How much a class's probability falls, from logits.

    Parameters
    ----------
    whole, without
        Logits ``[C]`` of the image and ``[P, C]`` of its copies.
    label
        The class.

    Returns
    -------
    array
        float64 ``[P]``, negative where the probability rises.

    Notes
    -----
    :math:`p_y(x) - p_y(x_{-t})`, worked out as the rise of all other classes together: a
    probability near 1 is rounded to 1 in float32, and its falls to 0 or to the same few numbers.
    """

    def others(logits: NDArray) -> NDArray[np.float64]:
        values = np.asarray(logits, np.float64)
        weights = np.exp(values - values.max(-1, keepdims=True))
        return np.delete(weights, label, -1).sum(-1) / weights.sum(-1)

    return others(without) - others(whole)


def occlusion_maps(
    model: Model,
    pixels: NDArray[np.float32],
    labels: NDArray[np.integer],
    *,
    fill: Fill = "mean",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Hide every patch of every image in turn, and see how far the class's probability falls.

    Parameters
    ----------
    model
        A ViT that classifies.
    pixels
        ``[S, H, W, C]``, normalised.
    labels
        ``[S]``, the class of each image that is asked about.
    fill
        As for `occluded`.
    report
        Called with the number of images done and their total.

    Returns
    -------
    array
        float64 ``[S, rows, columns]``, as `probability_drop` has it.

    Raises
    ------
    InputError
        If the model is of another kind or there is no such fill.
    """
    config = vision_config(model)
    classify = _classifier(model)
    maps = []
    for image, label in zip(pixels, labels, strict=True):
        batch = np.concatenate([image[None], occluded(image, config, fill)])
        # Batches of one size are compiled once.
        size = min(_AT_ONCE, len(batch))
        padded = np.concatenate([batch, np.repeat(batch[:1], -len(batch) % size, 0)])
        logits = [
            np.asarray(classify(model.params, padded[start : start + size]))
            for start in range(0, len(padded), size)
        ]
        found = np.concatenate(logits)[: len(batch)]
        maps.append(probability_drop(found[0], found[1:], int(label)).reshape(config.grid))
        report(len(maps), len(labels))
    return np.array(maps).reshape(len(labels), *config.grid)


def patch_gradients(
    model: Model, pixels: NDArray[np.float32], labels: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Norm of the gradient of the class's logit at each embedded patch.

    Parameters
    ----------
    model, pixels, labels
        As for `occlusion_maps`.

    Returns
    -------
    array
        float64 ``[S, rows, columns]``.

    Raises
    ------
    InputError
        If the model is of another kind.
    """
    config = vision_config(model)
    apply: Callable[..., Any] = model.module.apply

    @jax.jit
    def norms(params: Any, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        def score(embeddings: jax.Array) -> jax.Array:
            logits = apply(params, embeddings, method="encode").logits
            return jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]

        embeddings = apply(params, pixels, method="embed")
        return jnp.asarray(jaxflow.gradient_norm(score, embeddings))[:, 1:]  # without [CLS]

    parts = [
        np.asarray(norms(model.params, pixels[start : start + _AT_ONCE], labels[start:][:_AT_ONCE]))
        for start in range(0, len(labels), _AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float64).reshape(len(labels), *config.grid)


def _classifier(model: Model) -> Callable[..., jax.Array]:
    apply: Callable[..., Any] = model.module.apply
    return jax.jit(lambda params, pixels: apply(params, pixels, method="classify"))
