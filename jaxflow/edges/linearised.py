"""Feed-forward layers as lines through the origin, and biases shared out: part by part."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.trace import BlockWeights
from jaxflow.errors import InputError

__all__ = ["affine", "feed_forward", "share", "slope"]


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


def share(parts: jax.Array, bias: Array, otherwise: jax.Array) -> jax.Array:
    r"""Share a bias out among the parts of a vector, by :math:`|\langle v_k, b\rangle|`.

    Parameters
    ----------
    parts
        ``[..., k, E]``.
    bias
        ``[E]``.
    otherwise
        ``[..., k]``, shares that sum to 1, where every part is at right angles to the bias.

    Returns
    -------
    jax.Array
        ``[..., k, E]``: their sum is larger by the bias.
    """
    bias = jnp.asarray(bias)
    along = jnp.abs(jnp.einsum("...ke,e->...k", parts, bias, precision=jax.lax.Precision.HIGHEST))
    total = along.sum(-1, keepdims=True)
    otherwise = jnp.broadcast_to(otherwise, along.shape)
    shares = jnp.where(total > 0, along / jnp.where(total > 0, total, 1), otherwise)
    return parts + shares[..., None] * jnp.broadcast_to(bias, parts.shape)


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
