"""What a block returns once attention has been paid: the second half of a Transformer block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.trace import BlockWeights, Norm

__all__ = ["activation", "block_output", "layer_norm"]


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return the feed-forward layer's activation by the name that `BlockWeights` has."""
    if name in ("gelu", "gelu_new", "gelu_pytorch_tanh"):
        return partial(jax.nn.gelu, approximate=name != "gelu")
    return {"relu": jax.nn.relu, "silu": jax.nn.silu}[name]


def layer_norm(values: jax.Array, norm: Norm) -> jax.Array:
    """Normalise ``[..., D]`` by one layer's `Norm`, its arrays ``[D]``."""
    centred = values - values.mean(-1, keepdims=True)
    deviation = jnp.sqrt(values.var(-1, keepdims=True) + norm.epsilon)
    scaled = centred / deviation * jnp.broadcast_to(norm.scale, values.shape)
    return scaled + jnp.broadcast_to(norm.bias, values.shape)


def block_output(stream: jax.Array, added: jax.Array, block: BlockWeights) -> jax.Array:
    """Return what a block makes of its stream and of what attention read.

    Parameters
    ----------
    stream
        ``[..., n, D]``, what enters the block.
    added
        ``[..., n, D]``, the sum over heads and keys of attention x values x projection; the
        projection's bias is added here.
    block
        One layer's parameters: no layer axis.

    Returns
    -------
    jax.Array
        ``[..., n, D]``.
    """
    middle = stream + added + jnp.broadcast_to(block.projection_bias, stream.shape)
    if not block.norm_first:
        middle = layer_norm(middle, block.norm_attention)
    read = layer_norm(middle, block.norm_feed_forward) if block.norm_first else middle
    expanded = _linear(read, block.up, block.up_bias)  # [..., n, F]
    result = middle + _linear(activation(block.activation)(expanded), block.down, block.down_bias)
    return result if block.norm_first else layer_norm(result, block.norm_feed_forward)


def _linear(values: jax.Array, kernel: Array, bias: Array) -> jax.Array:
    product = jnp.matmul(values, kernel, precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(bias, product.shape)
