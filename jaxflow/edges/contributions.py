r"""What each token brings to what attention adds, as vectors: the parts that norms are taken of.

Attention of one layer adds to token i's stream
:math:`\sum_j T_{ij} + b`, with :math:`T_{ij} = \sum_h \alpha^h_{ij} v^h_j W_O^h`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["brought", "by_layer", "linear_norm", "with_own"]


def brought(attention: jax.Array, vectors: jax.Array, projection: jax.Array) -> jax.Array:
    """Return T of one layer, ``[..., n, n, D]``.

    Parameters
    ----------
    attention, vectors, projection
        ``[..., H, n, n]``, ``[..., H, n, d]`` and ``[H, d, D]``.
    """
    highest = jax.lax.Precision.HIGHEST
    moved = jnp.einsum("...hjd,hde->...hje", vectors, projection, precision=highest)
    return jnp.einsum("...hij,...hje->...ije", attention, moved, precision=highest)


def with_own(parts: jax.Array, stream: jax.Array) -> jax.Array:
    """Add what the residual connection brings, ``[..., n, D]``, to a token's own part."""
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)[..., None]
    return parts + jnp.broadcast_to(own, parts.shape) * stream[..., :, None, :]


def linear_norm(parts: jax.Array, whole: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Normalise parts of a whole, linearised at the whole: their sum is what the whole gives.

    Parameters
    ----------
    parts
        ``[..., k, D]``, vectors that add up to `whole`, ``[..., D]``, or some of them.
    scale
        ``[D]``; the bias of the normalisation is left out.
    epsilon
        What is added to the variance.
    """
    centred = parts - parts.mean(-1, keepdims=True)
    deviation = jnp.sqrt(whole.var(-1) + epsilon)[..., None, None]
    return centred / deviation * jnp.broadcast_to(scale, centred.shape)


def by_layer(
    trace: Trace, function: Callable[[jax.Array, jax.Array, jax.Array, BlockWeights], jax.Array]
) -> jax.Array:
    """Work one layer after another, so that only one layer's vectors are held at a time.

    Parameters
    ----------
    trace
        With ``vectors``, ``stream`` and ``blocks``.
    function
        From one layer's attention ``[..., H, n, n]``, vectors ``[..., H, n, d]``, the stream it
        reads ``[..., n, D]`` and its parameters (`BlockWeights` without the layer axis) to the
        layer's result.

    Returns
    -------
    jax.Array
        Results with a layer axis before their last two: ``[..., L, n, n]``.
    """
    assert trace.vectors is not None
    assert trace.stream is not None
    given: Any = (
        jnp.moveaxis(jnp.asarray(trace.attention), -4, 0),
        jnp.moveaxis(jnp.asarray(trace.vectors), -4, 0),
        jnp.moveaxis(jnp.asarray(trace.stream)[..., :-1, :, :], -3, 0),
        trace.blocks,
    )
    return jnp.moveaxis(jax.lax.map(lambda layer: function(*layer), given), 0, -3)
