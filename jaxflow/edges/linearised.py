"""Feed-forward layers as lines through the origin: what vectors are sent through, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.trace import BlockWeights
from jaxflow.errors import InputError

__all__ = ["affine", "feed_forward", "layer_norm", "slope"]


def _tanh(values: jax.Array) -> jax.Array:
    small = jnp.abs(values) < 1e-3  # there the quotient loses digits, and the series is exact
    safe = jnp.where(small, 1, values)
    return jnp.where(small, 1 - values**2 / 3, jnp.tanh(safe) / safe)


def _gelu_new(values: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def _gelu(values: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(values * math.sqrt(0.5)))


def _relu(values: jax.Array) -> jax.Array:
    return (values > 0).astype(values.dtype)


#: Each activation divided by its argument, written so that nothing is divided by a small number.
_SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": _gelu_new,
    "gelu_pytorch_tanh": _gelu_new,
    "gelu": _gelu,
    "relu": _relu,
    "silu": jax.nn.sigmoid,
    "tanh": _tanh,
}


def slope(activation: str, values: jax.Array) -> jax.Array:
    """Return an activation's value divided by its argument: its line through the origin.

    Parameters
    ----------
    activation
        ``gelu_new``, ``gelu_pytorch_tanh``, ``gelu``, ``relu``, ``silu`` or ``tanh``.
    values
        Arguments of any shape.

    Raises
    ------
    InputError
        If there is no activation of that name.
    """
    if activation not in _SLOPES:
        raise InputError(f"activation must be one of {', '.join(_SLOPES)}, got {activation!r}")
    return _SLOPES[activation](values)


def affine(values: jax.Array, kernel: Array, bias: Array) -> jax.Array:
    """Return ``[..., E]`` of values ``[..., D]``, a kernel ``[D, E]`` and a bias ``[E]``."""
    product = jnp.matmul(values, jnp.asarray(kernel), precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(bias, product.shape)


def layer_norm(values: jax.Array, scale: Array, bias: Array, epsilon: float) -> jax.Array:
    """Normalise the last axis of ``[..., D]``; scale and bias are ``[D]``."""
    centred = values - values.mean(-1, keepdims=True)
    normal = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return normal * jnp.broadcast_to(scale, values.shape) + jnp.broadcast_to(bias, values.shape)


def feed_forward(block: BlockWeights, read: jax.Array) -> jax.Array:
    """Return what the feed-forward layer adds to the stream, ``[..., n, D]``.

    Parameters
    ----------
    block
        One layer's parameters.
    read
        What it reads, ``[..., n, D]``.
    """
    expanded = affine(read, block.up, block.up_bias)
    return affine(slope(block.activation, expanded) * expanded, block.down, block.down_bias)
