"""Compute a Transformer block's output, and the linear parts of each operation in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

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
    return add_bias(linear_norm(values[..., None, :], values, norm)[..., 0, :], norm.bias)


def add_bias(values: jax.Array, bias: Array | None) -> jax.Array:
    """Add a bias ``[D]`` to ``[..., D]``; None adds nothing."""
    return values if bias is None else values + jnp.broadcast_to(bias, values.shape)


def linear_norm(parts: jax.Array, whole: jax.Array, norm: Norm) -> jax.Array:
    """Normalise parts ``[..., k, D]`` of a vector `whole`, ``[..., D]``, linearised at it.

    The deviation, or root mean square, is that of `whole`, and the normalisation's bias is left
    out: where the parts sum to `whole`, their results sum to its normalisation without bias.
    """
    centred = parts if norm.rms else parts - parts.mean(-1, keepdims=True)
    variance = jnp.square(whole).mean(-1) if norm.rms else whole.var(-1)
    deviation = jnp.sqrt(variance + norm.epsilon)[..., None, None]
    return centred / deviation * jnp.broadcast_to(norm.scale, centred.shape)


def block_output(stream: jax.Array, added: jax.Array, block: BlockWeights) -> jax.Array:
    """Return a block's output ``[..., n, D]`` from its input and what its attention adds.

    `added` is ``[..., n, D]``, the sum over heads and keys of attention x values x projection,
    without the projection's bias; `block` holds one layer's parameters.
    """
    middle = stream + branch(add_bias(added, block.projection_bias), block.norm_attention_out)
    if not block.norm_first:
        middle = layer_norm(middle, block.norm_attention)
    result = middle + feed_forward(block, stream if block.parallel else middle)
    return result if block.norm_first else layer_norm(result, block.norm_feed_forward)


def branch(written: jax.Array, norm: Norm | None) -> jax.Array:
    """Return what a branch adds to the stream: normalised, where a model normalises it."""
    return written if norm is None else layer_norm(written, norm)


def feed_forward(block: BlockWeights, stream: jax.Array) -> jax.Array:
    """Return what one layer's feed-forward branch, given this stream, adds: ``[..., n, D]``."""
    read = layer_norm(stream, block.norm_feed_forward) if block.norm_first else stream
    if block.router is None:
        expanded = affine(read, block.up, block.up_bias)
        gate, linear = halves(expanded) if block.gated else (expanded, None)
        inner = slope(block.activation, gate) * gate  # [..., n, F]
        written = affine(inner if linear is None else inner * linear, block.down, block.down_bias)
    else:
        logits = add_bias(jnp.matmul(read, jnp.asarray(block.router)), block.router_bias)
        weights = block.up, block.up_bias, block.down, block.down_bias
        written = mixture(read, logits, block.chosen, weights)
    return branch(written, block.norm_feed_forward_out)


def halves(expanded: Array) -> tuple[jax.Array, jax.Array]:
    """Return the gate and the linear part ``[..., F]`` of a gated layer's ``[..., 2 F]``."""
    gate, linear = jnp.split(jnp.asarray(expanded), 2, axis=-1)
    return gate, linear


def mixture(
    read: jax.Array, logits: jax.Array, chosen: int, weights: tuple[Array, ...]
) -> jax.Array:
    """Return the output ``[..., D]`` of gpt-oss's mixture of experts.

    `logits` ``[..., E]`` are the router's, of which the `chosen` highest are taken; `weights` are
    ``[E, D, 2 F]``, ``[E, 2 F]``, ``[E, F, D]`` and ``[E, D]`` of gated layers, clamped as there.
    """
    best, places = jax.lax.top_k(logits, chosen)
    spread = jax.nn.one_hot(places, logits.shape[-1], dtype=read.dtype)  # [..., k, E]
    shares = (jax.nn.softmax(best)[..., None] * spread).sum(-2)

    def add(total: jax.Array, expert: Any) -> tuple[jax.Array, None]:
        share, up, up_bias, down, down_bias = expert
        gate, linear = halves(add_bias(read @ up, up_bias))
        gate, linear = jnp.minimum(gate, 7.0), jnp.clip(linear, -7.0, 7.0)
        mixed = (linear + 1) * gate * jax.nn.sigmoid(1.702 * gate)
        return total + share[..., None] * add_bias(mixed @ down, down_bias), None

    return jax.lax.scan(add, jnp.zeros_like(read), (jnp.moveaxis(shares, -1, 0), *weights))[0]


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
    if activation not in _SLOPES:
        raise InputError(f"activation must be one of {', '.join(_SLOPES)}, got {activation!r}")
    return _SLOPES[activation](values)


def distribute_bias(parts: jax.Array, bias: Array, otherwise: jax.Array) -> jax.Array:
    r"""Distribute a bias ``[..., E]`` over parts ``[..., k, E]`` as :math:`|<v_k, b>|` are.

    Where all parts are orthogonal to it, in the proportions `otherwise`, ``[..., k]``.
    """
    bias = jnp.broadcast_to(bias, (*parts.shape[:-2], parts.shape[-1]))
    along = jnp.abs(einsum("...ke,...e->...k", parts, bias))
    total = along.sum(-1, keepdims=True)
    otherwise = jnp.broadcast_to(otherwise, along.shape)
    shares = jnp.where(total == 0, otherwise, along / jnp.where(total == 0, 1, total))
    return parts + shares[..., None] * bias[..., None, :]
