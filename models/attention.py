"""Scaled dot-product attention that returns its weights.

Flax's own attention sows its weights, and returns them after dropout; an explanation needs the
distribution that the softmax gave.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["allowed_pairs", "attend", "dropout"]


def allowed_pairs(mask: jax.Array, *, causal: bool) -> jax.Array:
    """Return which query (row) may look at which key (column), to broadcast to ``[B, 1, n, n]``."""
    allowed = mask[:, None, None, :]
    if causal:
        n = mask.shape[-1]
        allowed = allowed & jnp.tril(jnp.ones((n, n), bool))[None, None]
    return allowed


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    *,
    rate: float = 0.0,
    rng: jax.Array | None = None,
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
    offset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Attend over the allowed keys.

    Parameters
    ----------
    query, key, value
        ``[B, H, n, d]``; queries may be fewer than keys.
    allowed
        Boolean, broadcast to ``[B, H, n, n]``.
    rate, rng
        Dropout of the weights, and its key; None for none.
    product
        The matrix product, of `jaxflow.models.layers.TRAINING` where only gradients are wanted.
    offset
        ``[B, H, n, n]``, added to the weights that mix the values, not to those returned: at 0 it
        is where gradients with respect to attention are taken.

    Returns
    -------
    tuple
        The mixed values ``[B, H, n, d]``, and the weights ``[B, H, n, n]`` before dropout, float32
        or wider, exactly 0 wherever a key is not allowed.

    Notes
    -----
    .. math:: \mathrm{softmax}(Q K^\top / \sqrt{d}) V
    """
    scores = product(query, key.mT) * query.shape[-1] ** -0.5
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # A finite floor keeps a row without any allowed key (a sentence of padding only) free of NaN.
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.where(allowed, jax.nn.softmax(scores, axis=-1), 0)
    dropped = weights if rng is None else dropout(rng, weights, rate)
    if offset is not None:
        dropped = dropped + offset
    return product(dropped.astype(value.dtype), value), weights


def dropout(rng: jax.Array, values: jax.Array, rate: float) -> jax.Array:
    """Set a share `rate` of the values to 0 and scale the others up.

    The key is expanded once, to two words; each position then hashes its own index with them. A
    cryptographic generator run for every value took a third of a training step on a CPU, and a
    dropout mask needs only to be even, independent between steps and the same in every run.
    """
    words = jax.random.bits(rng, (2,), jnp.uint32)
    position = jax.lax.iota(jnp.uint32, values.size)
    bits = _mix(_mix(position ^ words[0]) + words[1]).reshape(values.shape)
    keep = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, values / (1 - rate), 0)


def _mix(bits: jax.Array) -> jax.Array:
    """Hash 32 bits: two rounds of multiply and xor-shift, every input bit reaching every other."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
