"""Define the output of every model, and check its input."""

from __future__ import annotations

from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError

Answer = Literal["single-label", "multi-label", "regression", "tokens", "none"]
"""The kind of a model's answer: a classification head's problem, or a vocabulary's tokens."""


@flax.struct.dataclass
class Values:
    """Value vectors and output projections, for edge weights that need more than attention.

    The attention of layer l adds to token i's stream
    ``sum_h sum_j attention[l, h, i, j] vectors[l, h, j] @ projection[l, h] + bias[l]``, normalised
    first in models that normalise what a branch adds.

    Attributes
    ----------
    vectors
        ``[B, L, H, n, d]``, the value vector of each token in each head; d the width of a head.
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
    """The output of a model: logits and the intermediate results that attributions need.

    Attributes
    ----------
    logits
        ``[B, C]`` of the classes; ``[B, n, V]`` of every token of a (masked) language model; None
        of a model without a head.
    attention
        ``[B, L, H, n, n]``, queries x keys, the softmax before dropout, float32: rows sum to 1 and
        padded keys hold exactly 0.
    hidden
        ``[B, L + 1, n, D]``: the input of the first block, then the output of each block.
    pooled
        ``[B, D]``, the vector that classes are computed from; None where there is none.
    values
        Value vectors and output projections, if the caller requested them; else None.
    sink
        ``[B, L, H, n]``, the share of each row that went to the sink of a model that has them:
        with it rows of its attention sum to 1. None of other models.
    """

    logits: Any  # an array, except without a head
    attention: jax.Array
    hidden: jax.Array
    pooled: jax.Array | None = None
    values: Values | None = None
    sink: jax.Array | None = None


def answer_values(logits: jax.Array, answer: Answer) -> jax.Array:
    """Return the values of a model's answer, from its logits ``[..., C]``.

    Parameters
    ----------
    logits
        Of the classes or the vocabulary, on the last axis.
    answer
        `Model.answer`: ``single-label`` and ``tokens`` take softmax, ``multi-label`` the sigmoid
        of each class, and the numbers of a ``regression`` are the logits themselves.

    Raises
    ------
    InputError
        If the model has no answer.
    """
    if answer == "none":
        raise InputError("the model must have a head to answer with, and has none")
    if answer == "regression":
        return logits
    return jax.nn.sigmoid(logits) if answer == "multi-label" else jax.nn.softmax(logits)


def at_least_float32(logits: jax.Array) -> jax.Array:
    """Return logits in float32 or wider, so that their softmax is not taken in half precision."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def mask_of(config: Any, tokens: Any) -> Any:
    """Return the mask of tokens ``[B, n]`` that came without one: False at padding, None for all.

    A padding token that texts begin or end with too is not told from them by its number.
    """
    pad_id = getattr(config, "pad_id", None)
    return None if pad_id is None or getattr(config, "pad_is_end", False) else tokens != pad_id


def check_tokens(config: Any, tokens: Any, mask: Any) -> tuple[jax.Array, Any]:
    """Check ``[B, n]`` tokens; return them and the mask, by default `mask_of`."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(
            "tokens must be whole numbers of shape [sentences, tokens], got "
            f"{tokens.dtype} {tokens.shape}"
        )
    return tokens, mask_of(config, tokens) if mask is None else mask


def full_mask(embeddings: jax.Array, mask: Any, positions: int) -> jax.Array:
    """Check the mask ``[B, n]`` of embeddings ``[B, n, D]``; all True where there is none."""
    batch, n, _ = embeddings.shape
    if n > positions:
        raise InputError(f"tokens must be at most {positions} a sentence for this model, got {n}")
    mask = jnp.ones((batch, n), bool) if mask is None else jnp.asarray(mask)
    if mask.shape != (batch, n) or mask.dtype != jnp.bool_:
        raise InputError(
            f"mask must be boolean of shape {(batch, n)}, got {mask.dtype} {mask.shape}"
        )
    return mask


def readable(config: Any, tokens: Any, mask: Any) -> Any:
    """Return the tokens ``[..., n]`` that classes may be computed from, of those of the mask.

    Where they are computed from the last token, the padding token is passed over, as `transformers`
    does it, even if the text itself ends in it.
    """
    pad_id = getattr(config, "pad_id", None)
    if not config.reads_last or config.head == "lm" or pad_id is None or tokens is None:
        return mask
    return mask & (tokens != pad_id)


def last_real(mask: jax.Array) -> jax.Array:
    """Return the index of each sentence's last real token, ``[B]``; 0 where there is none."""
    return jnp.where(mask, jnp.arange(mask.shape[-1])[None], 0).max(-1)


def at_last_real(stream: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the stream ``[B, n, D]`` at each sentence's last real token, ``[B, D]``."""
    return jnp.take_along_axis(stream, last_real(mask)[:, None, None], axis=1)[:, 0]
