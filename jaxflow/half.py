"""Attention in half precision, made fit for the functions here, and what its rounding can do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, as_array, is_traced, mask_tokens
from jaxflow.errors import InputError

__all__ = ["HALVES", "ROW_SUM_TOLERANCES", "widen"]

HALVES = ("bfloat16", "float16")

#: Dtype -> how far from 1 a row's sum may be: each entry off by half a unit in its last place, and
#: as much again for a softmax that was worked out in that precision too.
ROW_SUM_TOLERANCES = {"bfloat16": 2.0**-7, "float16": 2.0**-10}


def widen(attention: Any, mask: Any = None) -> Array:
    r"""Turn attention in half precision into float32 whose rows sum to 1.

    The functions here take float32 and float64 and refuse rows that do not sum to 1: half precision
    looks like a wrong axis. Where rounding is all that is wrong, this is what mends it, by dividing
    each row by its sum.

    Parameters
    ----------
    attention
        ``[..., n, n]``, bfloat16 or float16, rows summing to 1 within `ROW_SUM_TOLERANCES`.
    mask
        ``[..., n]`` boolean over the axes before layers and heads, True at real tokens, for
        ``[..., L, H, n, n]``; rows of padded tokens may hold anything finite and become 0. Without
        a mask a row of zeros, as of a query that sees nothing, is an error.

    Returns
    -------
    array
        float32, the same shape; a JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        If the dtype is another, or a row is further from 1 than rounding can be.

    Notes
    -----
    Rounding is relative: with the unit :math:`u = 2^{-8}` (bfloat16) or :math:`2^{-11}` (float16)
    each entry is :math:`W'_{ij} = W_{ij} (1 + \delta_{ij})` with :math:`|\delta| \le u`, and after
    dividing by the row's sum :math:`|\delta| \le \delta_1 = 2u / (1 - u)`; entries too small for a
    normal number, below :math:`6 \cdot 10^{-5}` in float16, may lose more. As capacities lie
    between :math:`(1 - \delta_1) A` and :math:`(1 + \delta_1) A`, so do the values of all cuts:
    **flow is off by at most the share** :math:`\delta_1`, however many layers there are. Rollout is
    a sum of products of one entry a layer: off by at most the share :math:`(1 + \delta_1)^L - 1`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxflow
    >>> half = jnp.full((1, 1, 3, 3), 1 / 3, jnp.bfloat16)
    >>> float(half.sum(-1, dtype=jnp.float32)[0, 0, 0])
    1.001953125
    >>> jaxflow.rollout(jaxflow.widen(half)).dtype
    dtype('float32')
    """
    given = as_array("attention", attention)
    name = str(given.dtype)
    if name not in HALVES:
        raise InputError(
            f"attention must be {' or '.join(HALVES)} to be widened, got {name}: float32 and "
            "float64 are taken as they are"
        )
    if given.ndim < 2 or given.shape[-1] != given.shape[-2] or 0 in given.shape:
        raise InputError(f"attention must have the shape [..., tokens, tokens], got {given.shape}")
    namespace: Any = jnp if isinstance(given, jax.Array) else np
    wide = given.astype(np.float32)
    real = None
    if mask is not None:
        real = as_array("mask", mask)
        expected = (*given.shape[:-4], given.shape[-1])
        if given.ndim < 4 or real.shape != expected or real.dtype != np.bool_:
            raise InputError(
                f"mask must be boolean of shape {expected} to go with attention {given.shape}, got "
                f"{real.dtype} {real.shape}"
            )
        wide = mask_tokens(wide, real, heads=True)
    total = wide.sum(-1, keepdims=True)
    if not is_traced(total, real):
        rows = np.asarray(total)[..., 0]
        if real is not None:
            rows = np.where(np.asarray(real)[..., None, None, :], rows, 1)
        error = np.abs(rows - 1).max()
        if not error <= ROW_SUM_TOLERANCES[name]:
            raise InputError(
                f"attention rows (queries) must sum to 1 within {ROW_SUM_TOLERANCES[name]:.2g} in "
                f"{name}, got a row that is off by {error:.3g}"
            )
    result: Array = wide / namespace.where(total > 0, total, namespace.float32(1))
    return result
