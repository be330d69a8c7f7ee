"""Compute a Transformer block's output, and the linear parts of each operation in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.trace import BlockWeights, Norm
from jaxflow.errors import InputError

einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def affine(values: jax.Array, kernel: Array, bias: Array) -> jax.Array:
    """Return ``[..., E]`` of values ``[..., D]``, a kernel ``[D, E]`` and a bias ``[E]``."""
    product = jnp.matmul(values, jnp.asarray(kernel), precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(bias, product.shape)


def layer_norm(values: jax.Array, norm: Norm) -> jax.Array:
    """Normalise ``[..., D]`` by one layer's `Norm`, its arrays ``[D]``."""
    centred = values - values.mean(-1, keepdims=True)
    deviation = jnp.sqrt(values.var(-1, keepdims=True) + norm.epsilon)
    scaled = centred / deviation * jnp.broadcast_to(norm.scale, values.shape)
    return scaled + jnp.broadcast_to(norm.bias, values.shape)


def linear_norm(parts: jax.Array, whole: jax.Array, norm: Norm) -> jax.Array:
    """Normalise parts ``[..., k, D]`` of a vector `whole`, ``[..., D]``, linearised at it.

    The deviation is that of `whole`, and the normalisation's bias is left out: where the parts
    sum to `whole`, their results sum to its normalisation without bias.
    """
    centred = parts - parts.mean(-1, keepdims=True)
    deviation = jnp.sqrt(whole.var(-1) + norm.epsilon)[..., None, None]
    return centred / deviation * jnp.broadcast_to(norm.scale, centred.shape)


def block_output(stream: jax.Array, added: jax.Array, block: BlockWeights) -> jax.Array:
    """Return a block's output ``[..., n, D]`` from its input and what its attention adds.

    `added` is ``[..., n, D]``, the sum over heads and keys of attention x values x projection,
    without the projection's bias; `block` holds one layer's parameters.
    """
    middle = stream + added + jnp.broadcast_to(block.projection_bias, stream.shape)
    if not block.norm_first:
        middle = layer_norm(middle, block.norm_attention)
    read = layer_norm(middle, block.norm_feed_forward) if block.norm_first else middle
    expanded = affine(read, block.up, block.up_bias)  # [..., n, F]
    result = middle + affine(_activation(block.activation)(expanded), block.down, block.down_bias)
    return result if block.norm_first else layer_norm(result, block.norm_feed_forward)


def _activation(name: str) -> Callable[[jax.Array], jax.Array]:
    if name in ("gelu", "gelu_new", "gelu_pytorch_tanh"):
        return partial(jax.nn.gelu, approximate=name != "gelu")
    _check_activation(name)
    return {"relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}[name]


def feed_forward(block: BlockWeights, read: jax.Array) -> jax.Array:
    """Return what one layer's feed-forward network, with input `read`, adds: ``[..., n, D]``."""
    expanded = affine(read, block.up, block.up_bias)
    return affine(slope(block.activation, expanded) * expanded, block.down, block.down_bias)


def _tanh(values: jax.Array) -> jax.Array:
    small = jnp.abs(values) < 1e-3  # there the quotient loses digits, and the series is exact
    safe = jnp.where(small, 1, values)
    return jnp.where(small, 1 - values**2 / 3, jnp.tanh(safe) / safe)


def _gelu_new(values: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def _gelu(values: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(values * math.sqrt(0.5)))


def _relu(values: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(values), values, (values > 0).astype(values.dtype))


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

    `activation` is ``gelu_new``, ``gelu_pytorch_tanh``, ``gelu``, ``relu``, ``silu`` or ``tanh``,
    `InputError` otherwise; `values` have any shape.
    """
    _check_activation(activation)
    return _SLOPES[activation](values)


def _check_activation(name: str) -> None:
    if name not in _SLOPES:
        raise InputError(f"activation must be one of {', '.join(_SLOPES)}, got {name!r}")


def distribute_bias(parts: jax.Array, bias: Array, otherwise: jax.Array) -> jax.Array:
    r"""Distribute a bias ``[E]`` over parts ``[..., k, E]`` in proportion to :math:`|<v_k, b>|`.

    Where all parts are orthogonal to it, in the proportions `otherwise`, ``[..., k]``.
    """
    bias = jnp.asarray(bias)
    along = jnp.abs(einsum("...ke,e->...k", parts, bias))
    total = along.sum(-1, keepdims=True)
    otherwise = jnp.broadcast_to(otherwise, along.shape)
    shares = jnp.where(total == 0, otherwise, along / jnp.where(total == 0, 1, total))
    return parts + shares[..., None] * jnp.broadcast_to(bias, parts.shape)
