r"""Effective attention: the part of attention that can change what a head reads.

With :math:`T^h = V^h W_O^h`, one row a token, attention can be changed by any vector of the left
null space of :math:`T^h` and the head still reads the same. Brunner et al. take that part away:

.. math:: E = \frac{1}{H} \sum_h A^h (I - P^h) = \frac{1}{H} \sum_h A^h U^h U^{h\top}

P the projector onto the left null space, U the left singular vectors of T whose singular values
are above :math:`\epsilon \max(n, D) \sigma_1` (ε the spacing of floating-point numbers at 1, D the
stream's width, n the real tokens). Value vectors are taken with their bias. The null space has at
least n - d dimensions, d the width of a head. Where n ≤ d it has none unless values are linearly
dependent, and effective attention is attention itself: traces with no sentence longer than d are
refused.

A causal model's token reads the values of the tokens before it alone, so each row has the null
space of these alone; no row gives weight to a token that it cannot see. Weights can be negative
and rows need not sum to 1. Flow and rollout take their positive part.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, is_traced
from jaxflow.edges.contributions import by_layer
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.sight import sight
from jaxflow.edges.trace import BlockWeights, Trace
from jaxflow.errors import InputError

__all__ = ["EDGES"]


def _effective(trace: Trace) -> jax.Array:
    _check_lengths(trace)
    seen = sight(trace)
    real = jnp.ones(seen.shape[:-1], bool) if trace.mask is None else jnp.asarray(trace.mask)
    # One projector serves all rows, unless tokens see different tokens as in a causal model.
    differ = (real[..., :, None] & real[..., None, :] & ~seen).any()

    def layer(
        attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
    ) -> jax.Array:
        factor = _factor(block.projection)
        read = jnp.einsum(
            "...hjd,hdr->...hjr", vectors, factor, precision=jax.lax.Precision.HIGHEST
        )  # [..., H, n, r], T in an orthonormal basis of what the head can write

        def shared() -> jax.Array:
            return _kept(attention, read, real[..., None, :], block.projection.shape[-1])

        def by_row() -> jax.Array:
            def one(row: tuple[jax.Array, jax.Array]) -> jax.Array:
                paid, keys = row  # [..., H, n] and [..., n]
                return _kept(paid[..., None, :], read, keys[..., None, :], width)[..., 0, :]

            width = block.projection.shape[-1]
            rows = (jnp.moveaxis(attention, -2, 0), jnp.moveaxis(seen, -2, 0))
            return jnp.moveaxis(jax.lax.map(one, rows), 0, -2)

        return jax.lax.cond(differ, by_row, shared).mean(-3)

    return by_layer(trace, layer)


def _factor(projection: Array) -> jax.Array:
    """Return ``[H, d, r]`` with the products of rows that ``[H, d, D]`` has: r = min(d, D)."""
    return jnp.linalg.qr(jnp.asarray(projection).mT, mode="r").mT


def _kept(attention: jax.Array, read: jax.Array, keys: jax.Array, width: int) -> jax.Array:
    """Project rows ``[..., H, m, n]`` onto the column space of the rows of T that are keys."""
    rows = jnp.where(keys[..., None], read, 0)
    basis, values, _ = jnp.linalg.svd(rows, full_matrices=False)  # [..., H, n, k], [..., H, k]
    size = jnp.maximum(keys.sum(-1, keepdims=True), width)
    spacing = jnp.finfo(read.dtype).eps * size.astype(read.dtype)  # [..., 1, 1]
    basis = jnp.where((values > spacing * values.max(-1, keepdims=True))[..., None, :], basis, 0)
    highest = jax.lax.Precision.HIGHEST
    inside = jnp.matmul(attention, basis, precision=highest)
    return jnp.where(keys[..., None, :], jnp.matmul(inside, basis.mT, precision=highest), 0)


def _check_lengths(trace: Trace) -> None:
    vectors: Any = trace.vectors
    width, longest = vectors.shape[-1], trace.attention.shape[-1]
    if trace.mask is not None and not is_traced(trace.mask):
        longest = int(np.asarray(trace.mask).sum(-1).max(initial=0))
    if longest <= width:
        raise InputError(
            f"effective attention needs a sentence of more tokens than a head is wide ({width}), "
            f"the longest has {longest}: there it is attention itself, so take the edge weight raw"
        )


EDGES = EdgeWeight(
    "effective",
    "effective attention",
    _effective,
    "Brunner et al., On Identifiability in Transformers, ICLR 2020",
    needs=("vectors", "stream", "blocks"),
    signed=True,
)
