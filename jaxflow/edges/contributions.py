r"""What each token brings to an attention block's output, as vectors: norms are taken of these.

Attention of one layer adds to token i's stream :math:`\sum_j F_{ij} + b_O`, with
:math:`F_{ij} = \sum_h \alpha^h_{ij} v^h_j W_O^h`, value vectors with their bias. With
:math:`T_{ij} = g_i(F_{ij} + \delta_{ij} x_i)` the attention block returns

.. math:: y_i = \sum_j T_{ij} + \text{what biases bring}

with :math:`g_i` the normalisation after the sum, linearised at its actual deviation, of a
post-LayerNorm block; of a pre-LayerNorm block, where nothing follows the sum, it is the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.edges.trace import BlockWeights, Trace, require

__all__ = ["brought", "by_layer", "linear_norm", "reconstruction", "transformed", "with_own"]


def brought(attention: jax.Array, vectors: jax.Array, projection: jax.Array) -> jax.Array:
    """Return F of one layer, ``[..., n, n, D]``.

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


def transformed(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> tuple[jax.Array, jax.Array]:
    """Return T of one layer, ``[..., n, n, D]``, and y, ``[..., n, D]``, put together from it.

    Parameters
    ----------
    attention, vectors, stream, block
        As `by_layer` hands them over.
    """
    parts = with_own(brought(attention, vectors, jnp.asarray(block.projection)), stream)
    bias = jnp.broadcast_to(block.projection_bias, stream.shape)
    whole = parts.sum(-2) + bias
    if block.norm_first:
        return parts, whole
    norm = block.norm_attention
    scale = jnp.asarray(norm.scale)
    parts = linear_norm(parts, whole, scale, norm.epsilon)
    rest = linear_norm(bias[..., None, :], whole, scale, norm.epsilon)[..., 0, :]
    return parts, parts.sum(-2) + rest + jnp.broadcast_to(norm.bias, stream.shape)


def reconstruction(trace: Trace) -> jax.Array:
    """Put every attention block's output together from what each token brings and the biases.

    What comes out is what the model's own blocks hold after attention, before the feed-forward
    layer, in floating point's precision: that this is so is what the decomposition claims.

    Parameters
    ----------
    trace
        With ``vectors``, ``stream`` and ``blocks``.

    Returns
    -------
    jax.Array
        ``[..., L, n, D]``: y of the module's docstring.

    Raises
    ------
    InputError
        If the trace lacks one of these.
    """
    require(trace, ("vectors", "stream", "blocks"), "the reconstruction")
    return by_layer(trace, _output)


def _output(*layer: Any) -> jax.Array:
    return transformed(*layer)[1]


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
        layer's result. One of a module: it is compiled once, and again for every new function.

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
    return jnp.moveaxis(_mapped(function, given), 0, -3)


@partial(jax.jit, static_argnums=0)
def _mapped(function: Callable[..., jax.Array], given: Any) -> jax.Array:
    return jax.lax.map(lambda layer: function(*layer), given)
