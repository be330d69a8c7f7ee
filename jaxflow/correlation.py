"""Compute Spearman's rank correlation with average ranks for ties and a mask for padding."""

from __future__ import annotations

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, ArrayLike, as_array, in_own_precision
from jaxflow.errors import InputError


@overload
def spearman(a: jax.Array, b: ArrayLike, mask: ArrayLike | None = None) -> jax.Array: ...
@overload
def spearman(a: ArrayLike, b: jax.Array, mask: ArrayLike | None = None) -> jax.Array: ...
@overload
def spearman(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray: ...
def spearman(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> Array:
    r"""Return Spearman's rank correlation over the last axis, ties given their average rank.

    Parameters
    ----------
    a, b
        ``[..., n]`` real numbers, whole ones too; batch axes broadcast against each other.
    mask
        ``[..., n]`` boolean, True at the tokens that count; it broadcasts too.

    Returns
    -------
    array
        ``[...]`` in the wider dtype of `a` and `b`, at least float32; whole numbers count as
        float64, in JAX as its default. NaN where either side is constant over the
        counted tokens, where fewer than two count, or where one of them is NaN. A JAX array if any
        argument is one, else NumPy.

    Raises
    ------
    InputError
        If the shapes do not fit, an array is not of real numbers, or the mask is no boolean.

    Notes
    -----
    Pearson's correlation of the ranks, with rank :math:`r_i = \#\{a_j < a_i\} + (\#\{a_j = a_i\}
    + 1)/2`. The shortcut :math:`1 - 6 \sum d^2 / (n (n^2 - 1))` is wrong as soon as there are ties.
    Every pair is compared, so memory grows with n squared.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> float(jaxflow.spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 9.0])))
    1.0
    """
    a, b = _checked("a", a), _checked("b", b)
    shapes = [a.shape, b.shape]
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.dtype != np.bool_:
            raise InputError(f"mask must be boolean, True at counted tokens, got {mask.dtype}")
        shapes.append(mask.shape)
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise InputError(f"a, b and mask must have fitting shapes, got {shapes}") from error
    if any(given[-1:] != shape[-1:] for given in shapes):
        raise InputError(f"a, b and mask must have the same number of tokens, got {shapes}")
    return in_own_precision(_spearman, a, b, mask)


def _checked(name: str, given: ArrayLike) -> Array:
    """Return numbers to be ranked: whole ones on the host as float64 of the same order."""
    values = as_array(name, given)
    whole = np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_
    if values.ndim < 1 or not (whole or jnp.issubdtype(values.dtype, jnp.floating)):
        raise InputError(
            f"{name} must be real numbers of shape [..., tokens], got {values.dtype} {values.shape}"
        )
    if whole and isinstance(values, np.ndarray):  # JAX would cut off 64 bits
        places = np.unique(values, return_inverse=True)[1]
        return places.reshape(values.shape).astype(np.float64)
    return values


@jax.jit
def _spearman(a: jax.Array, b: jax.Array, mask: jax.Array | None) -> jax.Array:
    shape = jnp.broadcast_shapes(a.shape, b.shape, () if mask is None else mask.shape)
    # Not in half precision: the products of ranks overflow from about 40 tokens on.
    dtype = jnp.promote_types(jnp.result_type(a, b, float), jnp.float32)
    counted = jnp.ones(shape, bool) if mask is None else jnp.broadcast_to(mask, shape)
    left = _centred_ranks(jnp.broadcast_to(a, shape), counted, dtype)
    right = _centred_ranks(jnp.broadcast_to(b, shape), counted, dtype)
    norm = jnp.sqrt((left**2).sum(-1) * (right**2).sum(-1))
    correlation = (left * right).sum(-1) / jnp.where(norm > 0, norm, 1)
    # Rounding may leave a perfect correlation at 1 + 1e-7, which no rank correlation can be.
    return jnp.where(norm > 0, jnp.clip(correlation, -1, 1), jnp.nan)


def _centred_ranks(values: jax.Array, counted: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return average ranks of the counted tokens minus their mean; 0 elsewhere, NaN for NaN."""
    mine, others = values[..., :, None], values[..., None, :]
    pairs = counted[..., None, :]
    below = (pairs & (others < mine)).sum(-1)
    above = (pairs & (others > mine)).sum(-1)
    # The rank minus the mean rank is half of (tokens below - tokens above): whole numbers until
    # the last step, so ties and constants are exact in any precision.
    ranks = jnp.where(counted, (below - above).astype(dtype) / 2, jnp.zeros((), dtype))
    undefined = (counted & jnp.isnan(values)).any(-1, keepdims=True)
    return jnp.where(undefined, jnp.nan, ranks)
