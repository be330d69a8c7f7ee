"""Raw attention and attention rollout: matrix products down the layers.

Each function checks its input at the edge and hands pure arrays to a jitted function of one
stack of layers; batch axes are only ever broadcast over.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.attention import (
    Array,
    check_attention,
    check_heads,
    check_residual,
    edge_weights,
    fuse_heads,
    in_own_precision,
    mask_tokens,
)
from jaxflow.errors import InputError

__all__ = ["head_rollout", "raw_attention", "rollout"]


def raw_attention(attention: Any, *, heads: str | int = "mean", mask: Any = None) -> Array:
    r"""Return each layer's own attention, heads fused, no residual connection.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[..., n]`` boolean, True at real tokens.

    Returns
    -------
    array
        Token attention ``[..., L, n, n]`` in the dtype of `attention`, 0 at padded queries and
        keys. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask or a head that is not usable.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.full((1, 2, 3, 3), 1 / 3)
    >>> jaxflow.raw_attention(attention).shape
    (1, 3, 3)
    """
    attention, mask = check_attention(attention, mask)
    heads = check_heads(heads, attention.shape[-3])
    return in_own_precision(_raw_attention, attention, mask, heads=heads)


@partial(jax.jit, static_argnames=("heads",))
def _raw_attention(attention: jax.Array, mask: jax.Array | None, *, heads: str | int) -> jax.Array:
    return jnp.asarray(mask_tokens(fuse_heads(attention, heads), mask))


def rollout(
    attention: Any,
    *,
    residual: Any = 0.5,
    heads: str | int = "mean",
    mask: Any = None,
    start_layer: int = 0,
) -> Array:
    r"""Attention rollout: how much of each input token reaches each token of each layer.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[..., n]`` boolean, True at real tokens.
    start_layer
        The layer (0-based) whose input counts as the input tokens. Layers below it are taken as
        the identity, so that the result keeps its layer axis.

    Returns
    -------
    array
        Token attention ``[..., L, n, n]`` in the dtype of `attention`; rows of real tokens sum to
        1, padded rows and columns are 0. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask, a residual, a head or a layer that is not usable.

    Notes
    -----
    .. math:: R^{(1)} = A^{(1)}, \qquad R^{(l)} = A^{(l)} R^{(l-1)}

    with :math:`A` as in `jaxflow.attention.edge_weights`; equation 1 of [1]_. Differentiable, and
    usable inside ``jit``, ``vmap`` and ``grad``.

    A sum of products of nonnegative numbers: rounding is relative, and nothing cancels. In float32,
    :math:`u = 2^{-24}`, an entry after layer l is off by at most the share
    :math:`(1 + 4 (n + 8) u)^l - 1` of itself, in practice by a hundredth of that.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.full((2, 1, 2, 2), 0.5)
    >>> jaxflow.rollout(attention)[-1]
    array([[0.625, 0.375],
           [0.375, 0.625]])
    """
    attention, mask = check_attention(attention, mask)
    heads = check_heads(heads, attention.shape[-3])
    start_layer = _check_layer("start_layer", start_layer, attention.shape[-4])
    return in_own_precision(
        _rollout, attention, mask, check_residual(residual), heads=heads, start_layer=start_layer
    )


def _check_layer(name: str, layer: Any, layers: int) -> int:
    if isinstance(layer, bool) or not hasattr(layer, "__index__"):
        raise InputError(f"{name} must be a whole number, got {layer!r}")
    if not 0 <= layer < layers:
        raise InputError(f"{name} must be a layer from 0 to {layers - 1}, got {layer}")
    return int(layer)


@partial(jax.jit, static_argnames=("heads", "start_layer"))
def _rollout(
    attention: jax.Array,
    mask: jax.Array | None,
    residual: jax.Array | float,
    *,
    heads: str | int,
    start_layer: int,
) -> jax.Array:
    edges = jnp.asarray(edge_weights(attention, residual=residual, heads=heads, mask=mask))
    if start_layer:
        below = edges[..., :start_layer, :, :]
        eye = jnp.eye(edges.shape[-1], dtype=edges.dtype)
        identity = mask_tokens(jnp.broadcast_to(eye, below.shape), mask)
        edges = jnp.concatenate([identity, edges[..., start_layer:, :, :]], axis=-3)
    return _cumulative_product(edges)


def _cumulative_product(edges: jax.Array) -> jax.Array:
    """Multiply ``[..., L, n, n]`` from the bottom layer up, keeping every partial product."""
    # Written out layer by layer: a scan would first copy all layers to a leading axis.
    products = [edges[..., 0, :, :]]
    for layer in range(1, edges.shape[-3]):
        above = edges[..., layer, :, :]
        products.append(jnp.matmul(above, products[-1], precision=jax.lax.Precision.HIGHEST))
    return jnp.stack(products, axis=-3)


def head_rollout(attention: Any, *, residual: Any = 0.5, mask: Any = None) -> Array:
    r"""Attention rollout of single heads: one head on top, lower layers averaged over heads.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    mask
        ``[..., n]`` boolean, True at real tokens.

    Returns
    -------
    array
        ``[..., L, H, n, n]`` in the dtype of `attention`. Its mean over heads is the rollout. A
        JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask or a residual that is not usable.

    Notes
    -----
    .. math:: R^{(l, k)} = A^{(l, k)} R^{(l-1)}, \qquad A^{(l, k)} = (1 - r) W^{(l, k)} + r I

    as in appendix A.1 of [1]_.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.
    """
    attention, mask = check_attention(attention, mask)
    return in_own_precision(_head_rollout, attention, mask, check_residual(residual))


@jax.jit
def _head_rollout(
    attention: jax.Array, mask: jax.Array | None, residual: jax.Array | float
) -> jax.Array:
    mean = edge_weights(attention, residual=residual, mask=mask)
    averaged = _cumulative_product(jnp.asarray(mean))
    eye = jnp.eye(attention.shape[-1], dtype=attention.dtype)
    inputs = jnp.broadcast_to(eye, averaged[..., :1, :, :].shape)
    below = jnp.concatenate([inputs, averaged[..., :-1, :, :]], axis=-3)
    edges = (1 - residual) * attention + residual * jnp.broadcast_to(eye, attention.shape)
    masked = mask_tokens(edges, mask, heads=True)
    return jnp.matmul(masked, below[..., None, :, :], precision=jax.lax.Precision.HIGHEST)
