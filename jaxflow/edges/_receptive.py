r"""Normalise a causal model's scores by its receptive field, that is by uniform attention.

Under a causal mask the first token is visible to all tokens in all layers, the last one to itself
alone. Attention uniform over the visible tokens, :math:`U_{ij} = 1 / i` for :math:`j \le i`,
combined over L layers, is what token j gets for its position alone. Scores divided by that are 1
where a token gets no more attention than its position explains, for every aggregator of the
layers. Abnar and Zuidema propose such a normalisation for decoders and leave it open.
"""

from __future__ import annotations

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import (
    Array,
    ArrayLike,
    Indices,
    as_array,
    check_count,
    check_residual,
    refuse_traced,
    resolve_tokens,
)
from jaxflow.edges._aggregate import Aggregator, check_aggregator, combine
from jaxflow.errors import InputError


def receptive_field(
    n: int,
    layers: int,
    how: Aggregator = "rollout",
    residual: float = 0.5,
    threads: int | None = None,
    *,
    visible: ArrayLike | None = None,
) -> np.ndarray:
    """Return each token's weight under attention uniform over the visible tokens.

    Parameters
    ----------
    n, layers
        Tokens and layers, at least 1.
    how
        One of `jaxflow.edges.AGGREGATORS`.
    residual
        Share of the residual connection in rollout and flow, from 0 to 1.
    threads
        For flow; None takes all cores.
    visible
        ``[L, n, n]`` boolean, the keys that each layer lets each query attend to, where windows or
        chunks leave some out; None is every token up to the query's own.

    Returns
    -------
    array
        ``[L, n, n]``, NumPy: float64 of flow, else float32. Row i of layer l holds the weights for
        token i after that layer, 0 for later tokens; the rows of the first k tokens are those of a
        sentence of k tokens.

    Raises
    ------
    InputError
        If an argument is not usable.
    """
    refuse_traced("receptive_field", residual)
    n, layers = check_count("n", n), check_count("layers", layers)
    check_aggregator(how)
    residual = check_residual(residual)
    seen = np.broadcast_to(np.tri(n, dtype=bool), (layers, n, n))
    if visible is not None:
        refuse_traced("receptive_field", visible)
        given = np.asarray(visible)
        if given.shape != seen.shape or given.dtype != bool or (given & ~seen).any():
            raise InputError(
                f"visible must be boolean of shape {seen.shape}, no token after the query's own, "
                f"got {given.dtype} {given.shape}"
            )
        if not given.any(-1).all():
            raise InputError("visible must have at least one token in every row")
        seen = given
    uniform = seen / seen.sum(-1, keepdims=True)
    if how == "flow":
        from jaxflow._flow import flow

        return np.asarray(flow(uniform[:, None], residual=residual, threads=threads))
    with jax.ensure_compile_time_eval():  # the same numbers wherever it is called from
        return np.asarray(
            combine(jnp.asarray(uniform, jnp.float32), how, held=False, residual=residual)
        )


@overload
def normalise(
    token_attention: jax.Array,
    how: Aggregator = ...,
    *,
    residual: float = ...,
    sources: Indices = ...,
    mask: ArrayLike | None = ...,
    threads: int | None = ...,
    visible: ArrayLike | None = ...,
) -> jax.Array: ...
@overload
def normalise(
    token_attention: ArrayLike,
    how: Aggregator = ...,
    *,
    residual: float = ...,
    sources: Indices = ...,
    mask: ArrayLike | None = ...,
    threads: int | None = ...,
    visible: ArrayLike | None = ...,
) -> np.ndarray: ...
def normalise(
    token_attention: ArrayLike,
    how: Aggregator = "rollout",
    *,
    residual: float = 0.5,
    sources: Indices = None,
    mask: ArrayLike | None = None,
    threads: int | None = None,
    visible: ArrayLike | None = None,
) -> Array:
    """Divide a causal model's token attention by its receptive field.

    Parameters
    ----------
    token_attention
        ``[..., L, S, n]`` as `jaxflow.edges.aggregate` returns it: all layers, from the first on.
    how, residual, sources
        As given there. For edge weights that include the residual connection `residual` is the
        share that they are assumed to include.
    mask
        ``[..., n]`` boolean, True at real tokens, as in the trace: needed where `sources` has
        negative numbers, which count from each text's own end. Padding must be at the end.
    threads
        For flow; None takes all cores.
    visible
        As given to `receptive_field`: needed for a model whose layers have windows or chunks.

    Returns
    -------
    array
        ``[..., L, S, n]`` in the dtype of `token_attention`: 1 is what attention uniform over
        the visible tokens would give, and tokens that the source cannot see are 0. Rows do not
        sum to 1. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        If an argument is not usable, the sources do not fit, or a token later than its source has
        a score other than 0, which no causal model gives it.
    """
    scores = as_array("token_attention", token_attention)
    if scores.ndim < 3 or 0 in scores.shape:
        raise InputError(
            f"token_attention must have the shape [..., layers, sources, n], got {scores.shape}"
        )
    layers, count, n = scores.shape[-3:]
    refuse_traced("the mask of normalise", mask)
    real = None if mask is None else np.asarray(as_array("mask", mask))
    if real is not None and (
        real.shape != (*scores.shape[:-3], n)
        or real.dtype != np.bool_
        or (real[..., 1:] & ~real[..., :-1]).any()
    ):
        raise InputError(
            f"mask must be boolean of shape {(*scores.shape[:-3], n)}, padding at the end, got "
            f"{real.dtype} {real.shape}"
        )
    picked = np.asarray(resolve_tokens("sources", sources, n, real))  # [S] or [..., S]
    if picked.shape[-1] != count:
        raise InputError(
            f"sources must be the {count} tokens whose rows are given, from {-n} to {n - 1}, got "
            f"{sources!r}"
        )
    every = receptive_field(n, layers, how, residual, threads, visible=visible)
    field = np.moveaxis(every[:, picked], 0, -3)
    later = np.arange(n) > picked[..., None, :, None]  # [..., 1, S, n]
    known = not isinstance(scores, jax.core.Tracer)
    if known and np.where(later, np.asarray(scores), 0).any():
        raise InputError(
            "token_attention must be a causal model's, got scores of tokens after their source"
        )
    inverse = np.where(field > 0, 1 / np.where(field > 0, field, 1), 0).astype(scores.dtype)
    namespace = jnp if isinstance(scores, jax.Array) else np
    return scores * namespace.broadcast_to(namespace.asarray(inverse), scores.shape)
