r"""Receptive-field normalisation: what a causal model's early tokens collect for being early.

Under a causal mask the first token is seen by everybody in all layers, the last one by itself
alone. Attention that is even over what each token sees, :math:`U_{ij} = 1 / i` for
:math:`j \le i`, followed down L layers, says what token j is given for its place alone. Scores
divided by that are 1 where a model looks no more at a token than its place explains, in whatever
way layers are combined. Abnar and Zuidema propose such a normalisation for decoders and leave it
open.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import as_array, check_count, check_residual
from jaxflow.edges.aggregate import AGGREGATORS, Aggregator, combine
from jaxflow.errors import InputError

__all__ = ["normalise", "receptive_field"]


def receptive_field(
    n: int,
    layers: int,
    how: Aggregator = "rollout",
    residual: Any = 0.5,
    threads: int | None = None,
) -> np.ndarray:
    """Return what uniform causal attention gives each token.

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

    Returns
    -------
    array
        ``[L, n, n]``, NumPy: float64 of flow, else float32. Row i is what token i is given after
        that layer, 0 for tokens behind it; the rows of the first k tokens are those of a sentence
        of k tokens.

    Raises
    ------
    InputError
        If an argument is not usable.
    """
    n, layers = check_count("n", n), check_count("layers", layers)
    if how not in AGGREGATORS:
        raise InputError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {how!r}")
    residual = check_residual(residual)
    rows = np.tri(n) / np.arange(1, n + 1)[:, None]
    uniform = np.broadcast_to(rows, (layers, n, n))
    if how == "flow":
        from jaxflow._flow import flow

        return np.asarray(flow(uniform[:, None], residual=residual, threads=threads))
    with jax.ensure_compile_time_eval():  # the same numbers wherever it is called from
        return np.asarray(
            combine(jnp.asarray(uniform, jnp.float32), how, held=False, residual=residual)
        )


def normalise(
    token_attention: Any,
    how: Aggregator = "rollout",
    *,
    residual: Any = 0.5,
    sources: Any = None,
    threads: int | None = None,
) -> Any:
    """Divide a causal model's token attention by its receptive field.

    Parameters
    ----------
    token_attention
        ``[..., L, S, n]`` as `jaxflow.edges.aggregate` returns it: all layers, from the first on.
    how, residual, sources
        As given there. For edge weights that hold the residual connection `residual` is the share
        that they are thought to hold.
    threads
        For flow; None takes all cores.

    Returns
    -------
    array
        ``[..., L, S, n]`` in the dtype of `token_attention`: 1 is what uniform causal attention
        would give, 0 stands at the tokens behind the source. Rows do not sum to 1. A JAX array for
        JAX input, else NumPy.

    Raises
    ------
    InputError
        If an argument is not usable, the sources do not fit, or a token behind its source holds
        anything, which no causal model gives it.
    """
    scores = as_array("token_attention", token_attention)
    if scores.ndim < 3 or 0 in scores.shape:
        raise InputError(
            f"token_attention must have the shape [..., layers, sources, n], got {scores.shape}"
        )
    layers, count, n = scores.shape[-3:]
    picked = np.arange(n) if sources is None else np.atleast_1d(np.asarray(sources))
    whole = np.issubdtype(picked.dtype, np.integer)
    if picked.shape != (count,) or not whole or not ((picked >= -n) & (picked < n)).all():
        raise InputError(
            f"sources must be the {count} tokens whose rows are given, from {-n} to {n - 1}, got "
            f"{sources!r}"
        )
    field = receptive_field(n, layers, how, residual, threads)[:, picked]  # [L, S, n]
    behind = np.arange(n) > np.where(picked < 0, picked + n, picked)[:, None]  # [S, n]
    if not isinstance(scores, jax.core.Tracer) and np.asarray(scores)[..., behind].any():
        raise InputError(
            "token_attention must be a causal model's, got scores of tokens behind their source"
        )
    inverse = np.where(field > 0, 1 / np.where(field > 0, field, 1), 0).astype(scores.dtype)
    namespace = jnp if isinstance(scores, jax.Array) else np
    return scores * namespace.broadcast_to(namespace.asarray(inverse), scores.shape)
