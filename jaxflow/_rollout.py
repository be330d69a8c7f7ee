"""Compute attention rollout: cumulative products of the layers' edge weights.

Each function hands arrays to a jitted function of one stack of layers, which checks their values
too; batch axes broadcast. `discard` drops the lowest attention first, as is usual for images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any, SupportsFloat, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import (
    UNROLLED,
    Array,
    ArrayLike,
    Indices,
    call_checked,
    check_heads,
    check_layout,
    check_residual,
    edge_weights,
    fuse_heads,
    is_traced,
    mask_tokens,
    resolve_tokens,
    take_rows,
)
from jaxflow.errors import InputError


@overload
def raw_attention(
    attention: jax.Array, *, heads: str | int = ..., mask: ArrayLike | None = ...
) -> jax.Array: ...
@overload
def raw_attention(
    attention: ArrayLike, *, heads: str | int = ..., mask: ArrayLike | None = ...
) -> np.ndarray: ...
def raw_attention(
    attention: ArrayLike, *, heads: str | int = "mean", mask: ArrayLike | None = None
) -> Array:
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
    attention, mask = check_layout(attention, mask)
    heads = check_heads(heads, attention.shape[-3])
    return call_checked(_raw_attention, attention, mask, heads=heads)


@partial(jax.jit, static_argnames=("heads",))
def _raw_attention(attention: jax.Array, mask: jax.Array | None, *, heads: str | int) -> jax.Array:
    return jnp.asarray(mask_tokens(fuse_heads(attention, heads), mask))


@overload
def rollout(
    attention: jax.Array,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
    start_layer: int = ...,
    sources: Indices | jax.Array = ...,
) -> jax.Array: ...
@overload
def rollout(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
    start_layer: int = ...,
    sources: Indices | jax.Array = ...,
) -> np.ndarray: ...
def rollout(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
    start_layer: int = 0,
    sources: Indices | jax.Array = None,
) -> Array:
    r"""Return attention rollout (Abnar and Zuidema 2020): products of the layers' edge weights.

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
    sources
        Tokens whose rows to return, and to compute where they are few: an index, a sequence of
        them, or None for all. Negative ones as in `jaxflow.flow`. Inside ``jit`` they may be
        traced, ``[S]`` or one set a text ``[..., S]``, and count from 0.

    Returns
    -------
    array
        Token attention ``[..., L, S, n]`` in the dtype of `attention`; rows of real tokens sum to
        1, padded rows and columns are 0. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask, a residual, a head, a layer or a source that is not usable.

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
    attention, mask = check_layout(attention, mask)
    heads = check_heads(heads, attention.shape[-3])
    whole = hasattr(start_layer, "__index__") and not isinstance(start_layer, bool)
    if not whole or not 0 <= start_layer < attention.shape[-4]:
        top = attention.shape[-4] - 1
        raise InputError(f"start_layer must be a layer from 0 to {top}, got {start_layer!r}")
    options: dict[str, Any] = {"heads": heads, "start_layer": int(start_layer)}
    rows = _rows(sources, attention, mask)
    return call_checked(_rollout, attention, mask, check_residual(residual), rows, **options)


def _rows(sources: Any, attention: Array, mask: Array | None) -> Any:
    """Return places of tokens from 0, ``[S]`` or ``[..., S]``, None for all."""
    if is_traced(sources):
        return jnp.atleast_1d(jnp.asarray(sources))
    if sources is None:
        return None
    rows = resolve_tokens("sources", sources, attention.shape[-1], mask)
    return np.array(rows) if isinstance(rows, tuple) else rows


@partial(jax.jit, static_argnames=("heads", "start_layer"))
def _rollout(
    attention: jax.Array,
    mask: jax.Array | None,
    residual: jax.Array | float,
    rows: jax.Array | None,
    *,
    heads: str | int,
    start_layer: int,
) -> jax.Array:
    layers = _edges(attention, mask, residual, heads=heads)
    if start_layer:
        shape, dtype = attention[..., :1, 0, :, :].shape, layers[0].dtype
        eye = jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)
        identity = jnp.asarray(mask_tokens(eye, mask)).squeeze(-3)
        layers = [identity] * start_layer + layers[start_layer:]
    if rows is None:
        return multiply(layers)
    return multiply(layers, [jnp.asarray(take_rows(layer, rows)) for layer in layers])


def _edges(
    attention: jax.Array, mask: jax.Array | None, residual: Any, *, heads: str | int | None
) -> list[jax.Array]:
    """Return the edge weights of each layer, ``[..., (H,) n, n]``."""
    axis, (depth, count) = attention.ndim - 4, attention.shape[-4:-2]
    given: dict[str, Any] = {"residual": residual, "heads": heads, "mask": mask}
    if depth * count > UNROLLED:
        return layers_of(edge_weights(attention, **given), axis)
    # Layer by layer, so that a layer is multiplied while it is in the cache.
    parts = jax.lax.split(attention, (1,) * depth, axis)
    return [jnp.asarray(edge_weights(part, **given)).squeeze(axis) for part in parts]


def layers_of(edges: Any, axis: int = -3) -> list[jax.Array]:
    """Return the layers of edges ``[..., L, n, n]``, bottom to top."""
    axis %= edges.ndim
    parts = jax.lax.split(jnp.asarray(edges), (1,) * edges.shape[axis], axis)
    return [part.squeeze(axis) for part in parts]


def multiply(layers: Sequence[jax.Array], tops: Sequence[jax.Array] | None = None) -> jax.Array:
    """Return rows through all layers below, ``[..., L, R, n]``.

    `layers` are ``[..., n, n]``, bottom to top; `tops`, ``[..., R, n]``, are rows of each layer, or
    of other edges in its place; None is all rows of the layers.
    """
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    n = layers[0].shape[-1]
    if tops is None and layers[0].size <= 1024:  # a loop starts faster than its steps one by one
        edges = jnp.stack(layers)
        step = lambda at, done: done.at[at].set(product(edges[at], done[at - 1]))  # noqa: E731
        return jnp.moveaxis(jax.lax.fori_loop(1, len(layers), step, edges), 0, -3)
    if tops is None or tops[0].shape[-2] * len(layers) >= 2 * n:
        whole = [layers[0]]
        for layer in layers[1 : None if tops is None else -1]:
            whole.append(product(layer, whole[-1]))
        if tops is not None:
            whole = [tops[0], *map(product, tops[1:], whole)]
        return jnp.stack(whole, axis=-3)
    # From the top down: the rows of all layers above go through a layer in one product.
    found = tops[-1]
    for top, layer in zip(reversed(tops[:-1]), reversed(layers[:-1]), strict=True):
        found = jnp.concatenate([top, product(found, layer)], axis=-2)  # [..., (L - l) R, n]
    return found.reshape(*found.shape[:-2], len(layers), -1, n)


@overload
def head_rollout(
    attention: jax.Array,
    *,
    residual: SupportsFloat = ...,
    mask: ArrayLike | None = ...,
    sources: Indices | jax.Array = ...,
) -> jax.Array: ...
@overload
def head_rollout(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = ...,
    mask: ArrayLike | None = ...,
    sources: Indices | jax.Array = ...,
) -> np.ndarray: ...
def head_rollout(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    mask: ArrayLike | None = None,
    sources: Indices | jax.Array = None,
) -> Array:
    r"""Return rollout of single heads: one head on top, lower layers averaged over heads.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    mask
        ``[..., n]`` boolean, True at real tokens.
    sources
        Tokens whose rows to return, as in `jaxflow.rollout`.

    Returns
    -------
    array
        ``[..., L, H, S, n]`` in the dtype of `attention`. Its mean over heads is the rollout. A
        JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask, a residual or a source that is not usable.

    Notes
    -----
    .. math:: R^{(l, k)} = A^{(l, k)} R^{(l-1)}, \qquad A^{(l, k)} = (1 - r) W^{(l, k)} + r I

    as in appendix A.1 of [1]_.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.
    """
    attention, mask = check_layout(attention, mask)
    rows = _rows(sources, attention, mask)
    return call_checked(_head_rollout, attention, mask, check_residual(residual), rows)


@jax.jit
def _head_rollout(
    attention: jax.Array,
    mask: jax.Array | None,
    residual: jax.Array | float,
    rows: jax.Array | None,
) -> jax.Array:
    mean = _edges(attention, mask, residual, heads="mean")
    tops = _edges(attention, mask, residual, heads=None)
    if rows is not None:
        tops = [jnp.asarray(take_rows(top, rows)) for top in tops]
    *batch, heads, count, n = tops[0].shape
    flat = multiply(mean, [top.reshape(*batch, heads * count, n) for top in tops])
    return flat.reshape(*batch, len(mean), heads, count, n)


@overload
def discard(
    attention: jax.Array,
    ratio: SupportsFloat,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
) -> jax.Array: ...
@overload
def discard(
    attention: ArrayLike,
    ratio: SupportsFloat,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
) -> np.ndarray: ...
def discard(
    attention: ArrayLike,
    ratio: SupportsFloat,
    *,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
) -> Array:
    r"""Fuse the heads, drop each layer's lowest entries, and add the residual connection.

    The result is an attention of one head with the residual connection in it already. Pass it
    to `jaxflow.rollout`, `jaxflow.flow` or any other function here with ``residual=0``.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    ratio
        Share of a layer's entries to drop, at least 0 and below 1, as written in decimals: of 100
        entries 0.29 drops 29. A plain number, not one that is traced.
    residual
        Share of the residual connection, from 0 to 1. With 0 this is raw attention without its
        lowest entries.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[..., n]`` boolean, True at real tokens. The share is one of the entries between real
        tokens.

    Returns
    -------
    array
        ``[..., L, 1, n, n]`` in the dtype of `attention`; rows of real tokens sum to 1, padded
        rows and columns are 0. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        For an attention, a mask, a ratio, a residual or a head that is not usable.

    Notes
    -----
    With :math:`W` the fused attention of a layer, m its entries between real tokens and
    :math:`w_{(k)}` the one that exactly k others precede in ascending order,

    .. math:: A = \mathrm{rownorm}\big((1 - r)\, W \odot [W \ge w_{(k)}] + r I\big),
              \qquad k = \lfloor \mathrm{ratio} \cdot m \rfloor.

    The ranking is one of the whole matrix, not of each row. Entries that are equal are dropped
    together or not at all, so at most the given share is dropped, and the result does not depend on
    the tokens' order. A row that loses all its entries keeps the residual; where that is 0, it
    keeps its largest entry, or all of them where several are equal.

    Public code with this name [1]_ divides by the row sums along the wrong axis (a missing
    ``keepdim``), so that its rows do not sum to 1, drops entries of the first image of a batch
    only, and never drops the very first entry, what ``[CLS]`` pays to itself. Here rows sum to 1,
    every matrix is treated alike, and so is every entry.

    Differentiable with respect to the attention and the residual wherever no two entries change
    places; inside ``jit``, ``vmap`` and ``grad`` too.

    References
    ----------
    .. [1] Gildenblat, *Exploring Explainability for Vision Transformers*, 2020 (vit-explain).

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.array([[[[0.6, 0.4], [0.1, 0.9]]]])
    >>> jaxflow.discard(attention, 0.5)
    array([[[[1., 0.],
             [0., 1.]]]])
    >>> jaxflow.rollout(jaxflow.discard(attention, 0.25), residual=0)
    array([[[0.8, 0.2],
            [0. , 1. ]]])
    """
    attention, mask = check_layout(attention, mask)
    heads = check_heads(heads, attention.shape[-3])
    residual = check_residual(residual)
    counts = _dropped_counts(ratio, attention.shape[-1])
    return call_checked(_discard, attention, mask, residual, counts=counts, heads=heads)


def _dropped_counts(ratio: Any, tokens: int) -> tuple[int, ...]:
    """Return how many entries to drop where there are 0, 1, ..., `tokens` real tokens."""
    problem = InputError(f"ratio must be a number of at least 0 and below 1, got {ratio!r}")
    if is_traced(ratio):
        raise InputError("ratio must be a plain number, not one traced by jit, vmap or grad")
    try:
        # The decimal number, not its floating-point value: 0.29 * 100 is below 29.
        share = Fraction(str(ratio))
    except (ValueError, ZeroDivisionError):
        raise problem from None
    if isinstance(ratio, str | bool) or not 0 <= share < 1:
        raise problem
    return tuple(math.floor(share * count**2) for count in range(tokens + 1))


@partial(jax.jit, static_argnames=("counts", "heads"))
def _discard(
    attention: jax.Array,
    mask: jax.Array | None,
    residual: jax.Array | float,
    *,
    counts: tuple[int, ...],
    heads: str | int,
) -> jax.Array:
    fused = jnp.asarray(mask_tokens(fuse_heads(attention, heads), mask))  # [..., L, n, n]
    # Written so that NaN is kept.
    kept = jnp.where(fused < _lowest_kept(fused, mask, counts), 0, fused)
    identity = jnp.broadcast_to(jnp.eye(fused.shape[-1], dtype=fused.dtype), fused.shape)
    edges = (1 - residual) * kept + residual * identity
    total = edges.sum(-1, keepdims=True)
    # The inner where keeps the derivative of the branch not taken finite.
    empty = total == 0
    edges = jnp.where(empty, _largest(fused, mask), edges / jnp.where(empty, 1, total))
    return jnp.asarray(mask_tokens(edges, mask))[..., None, :, :]


def _largest(fused: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Divide each row evenly among its largest entries between real tokens."""
    # Fusing by the minimum may leave a row of zeros, all of them its largest entries.
    highest = (fused == fused.max(-1, keepdims=True)).astype(fused.dtype)
    highest = jnp.asarray(mask_tokens(highest, mask))
    return highest / jnp.maximum(highest.sum(-1, keepdims=True), 1)


def _lowest_kept(fused: jax.Array, mask: jax.Array | None, counts: tuple[int, ...]) -> jax.Array:
    """Return the least entry that is kept: ``[..., L, 1, 1]``."""
    values = jax.lax.stop_gradient(fused)
    if mask is None:
        flat = values.reshape(*values.shape[:-2], -1)
        return jnp.sort(flat, axis=-1)[..., counts[-1], None, None]
    both = mask[..., None, :, None] & mask[..., None, None, :]
    flat = jnp.where(both, values, jnp.inf).reshape(*values.shape[:-2], -1)
    place = jnp.asarray(np.array(counts, np.int32))[mask.sum(-1)]  # [...]
    place = jnp.broadcast_to(place[..., None, None], (*flat.shape[:-1], 1))
    return jnp.take_along_axis(jnp.sort(flat, axis=-1), place, axis=-1)[..., None]
