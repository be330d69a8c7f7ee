"""What every model returns."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

__all__ = ["EncoderOutput", "Values", "at_least_float32"]


def at_least_float32(logits: jax.Array) -> jax.Array:
    """Return logits that a softmax can be taken of, whatever precision they were worked out in."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


@flax.struct.dataclass
class Values:
    """What attention mixes and where it writes to, for methods that weigh more than attention.

    The attention of layer l adds to token i's stream
    ``sum_h sum_j attention[l, h, i, j] vectors[l, h, j] @ projection[l, h] + bias[l]``.

    Attributes
    ----------
    vectors
        ``[B, L, H, n, d]``, d the width of a head: what each head holds of each token.
    projection
        ``[L, H, d, D]``: each head's rows of the output projection.
    bias
        ``[L, D]``, of the output projection.
    """

    vectors: jax.Array
    projection: jax.Array
    bias: jax.Array


@flax.struct.dataclass
class EncoderOutput:
    """What an encoder returns.

    Attributes
    ----------
    logits
        ``[B, C]`` of the classes; ``[B, n, V]`` of every token of a (masked) language model; None
        of a model without a head.
    attention
        ``[B, L, H, n, n]``, queries x keys, the softmax before dropout, float32: rows sum to 1 and
        padded keys hold exactly 0.
    hidden
        ``[B, L + 1, n, D]``: what enters the first block, then what each block returns.
    pooled
        ``[B, D]``, what the classes are read off; None where nothing is.
    values
        Value vectors and output projections, where they were asked for; else None.
    """

    logits: Any  # an array, but where there is no head
    attention: jax.Array
    hidden: jax.Array
    pooled: jax.Array | None = None
    values: Values | None = None
