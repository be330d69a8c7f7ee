"""What models check of their input, and what a missing mask means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.errors import InputError

__all__ = ["check_tokens", "full_mask", "last_real"]


def check_tokens(tokens: Any, mask: Any, pad_id: int | None) -> tuple[jax.Array, Any]:
    """Return the tokens as an array, and the mask: by default every token but the padding.

    Raises
    ------
    InputError
        If the tokens are no ``[B, n]`` of whole numbers.
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(
            "tokens must be whole numbers of shape [sentences, tokens], got "
            f"{tokens.dtype} {tokens.shape}"
        )
    if mask is None and pad_id is not None:
        mask = tokens != pad_id
    return tokens, mask


def full_mask(embeddings: jax.Array, mask: Any, positions: int) -> jax.Array:
    """Return the mask of embeddings ``[B, n, D]``, all True where there is none.

    Raises
    ------
    InputError
        If there are more tokens than positions, or the mask is not boolean ``[B, n]``.
    """
    batch, n, _ = embeddings.shape
    if n > positions:
        raise InputError(f"tokens must be at most {positions} a sentence for this model, got {n}")
    mask = jnp.ones((batch, n), bool) if mask is None else jnp.asarray(mask)
    if mask.shape != (batch, n) or mask.dtype != jnp.bool_:
        raise InputError(
            f"mask must be boolean of shape {(batch, n)}, got {mask.dtype} {mask.shape}"
        )
    return mask


def last_real(mask: jax.Array) -> jax.Array:
    """Return the place of each sentence's last real token, ``[B]``; 0 where there is none."""
    return jnp.where(mask, jnp.arange(mask.shape[-1])[None], 0).max(-1)
