"""The step that trains a small ViT on digits, and the parameters it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.models import ViTConfig, make_module
from jaxflow.train.digits_data import normalised
from jaxflow.train.step import Loss, Metrics, cross_entropy

__all__ = ["digits_loss", "widened"]


def widened(params: Any) -> Any:
    """Scale fresh parameters to what suits a small model.

    All are drawn with a deviation of 0.02, which is right for matrices of a width of 768. Here a
    matrix ``[in, out]`` gets a variance of 1 / in, so that a layer keeps its input's scale, and
    positions and ``[CLS]`` get the embedded patches' deviation, so that they are seen beside them.
    """

    def widen(path: Any, leaf: jax.Array) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            return leaf * (len(leaf) ** -0.5 / 0.02)
        return leaf / 0.02 if name in ("position", "cls") else leaf

    return jax.tree.map_with_path(widen, params)


def digits_loss(model: ViTConfig, shift: int) -> Loss:
    """Return the loss on ``grey [B, 8, 8, 1]`` and ``labels [B]``."""
    apply: Callable[..., Any] = make_module(model).apply

    def loss(
        params: Any, rng: jax.Array, grey: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        shift_rng, dropout_rng = jax.random.split(rng)
        pixels = normalised(_shifted(shift_rng, grey, shift), model)
        rngs = {"dropout": dropout_rng}
        return cross_entropy(
            apply(params, pixels, method="classify", train=True, rngs=rngs), labels
        )

    return loss


def _shifted(key: jax.Array, grey: jax.Array, most: int) -> jax.Array:
    """Move each image ``[B, 8, 8, 1]`` by up to `most` pixels, background coming in."""
    wide = jnp.pad(grey, ((0, 0), (most, most), (most, most), (0, 0)))
    starts = jax.random.randint(key, (len(grey), 2), 0, 2 * most + 1)

    def crop(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), grey.shape[1:])

    return jax.vmap(crop)(wide, starts)
