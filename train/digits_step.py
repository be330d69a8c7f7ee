"""The step that trains a small ViT on digits, and the parameters it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow.models import ViTConfig, make_module
from jaxflow.train.digits_data import normalised
from jaxflow.train.step import TrainState

__all__ = ["make_digits_step", "widened"]


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


def make_digits_step(
    model: ViTConfig, optimizer: optax.GradientTransformation, seed: int, shift: int
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Build the step ``(state, grey [B, 8, 8, 1], labels [B]) -> (state, [loss, accuracy])``."""
    apply: Callable[..., Any] = make_module(model).apply

    def step(state: TrainState, grey: jax.Array, labels: jax.Array) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed + 1), state.step)
        shift_key, dropout_key = jax.random.split(key)
        pixels = normalised(_shifted(shift_key, grey, shift), model)

        def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            options: dict[str, Any] = {"train": True, "rngs": {"dropout": dropout_key}}
            logits = apply(params, pixels, method="classify", **options)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits.argmax(-1) == labels).mean()

        (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), jnp.stack([loss, accuracy])

    return jax.jit(step, donate_argnums=0)


def _shifted(key: jax.Array, grey: jax.Array, most: int) -> jax.Array:
    """Move each image ``[B, 8, 8, 1]`` by up to `most` pixels, background coming in."""
    wide = jnp.pad(grey, ((0, 0), (most, most), (most, most), (0, 0)))
    starts = jax.random.randint(key, (len(grey), 2), 0, 2 * most + 1)

    def crop(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), grey.shape[1:])

    return jax.vmap(crop)(wide, starts)
