"""`flow`: the table of attention flows from tokens of every layer to the input tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow._flow.cost import check_cost
from jaxflow._flow.indices import resolve_indices
from jaxflow._flow.workers import (
    CompilerError,
    flow_tables,
    make_ready,
    resolve_threads,
    share_out,
)
from jaxflow.attention import (
    ROW_SUM_TOLERANCE,
    check_attention,
    check_heads,
    check_layout,
    check_residual,
    check_values,
    edge_weights,
    fuse_heads,
    is_traced,
)
from jaxflow.errors import InputError

__all__ = ["flow", "graph_edges"]


# Numbers that are checked and fused at a time: a megabyte or two, which stays in the cache.
_PIECE = 1 << 18

# From so many on a compiled reading pays; a single sentence need not wait for its compiler.
_MANY = 1 << 20


def graph_edges(
    attention: Any, residual: float, heads: str | int, mask: Any, threads: int | None = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Check what the caller gave; return float64 edge weights ``[..., L, n, n]`` and the mask."""
    attention, mask = check_layout(attention, mask)
    on_host = isinstance(attention, np.ndarray)
    if not on_host:
        check_values(attention, mask)
    attention = np.asarray(attention)
    mask = None if mask is None else np.asarray(mask)
    depth, count, n = attention.shape[-4:-1]
    heads = check_heads(heads, count)
    residual = check_residual(residual)
    flat = attention.reshape(-1, depth, count, n, n)
    real = None if mask is None else np.broadcast_to(mask, (*attention.shape[:-4], n))
    real = None if real is None else real.reshape(-1, n)
    edges = np.empty((len(flat), depth, n, n))
    step = max(1, _PIECE // (depth * count * n * n))

    compiled = _compiled(heads, count, flat.dtype) if flat.size >= _MANY else None

    def weigh(begin: int) -> None:
        part = flat[begin : begin + step]
        there = None if real is None else real[begin : begin + step]
        if compiled is not None and compiled(part, there, residual, edges[begin : begin + step]):
            return
        if on_host:
            check_values(part, there)
        edges[begin : begin + step] = _weigh(part, residual, heads, there)

    try:
        share_out(weigh, range(0, len(flat), step), resolve_threads(threads))
    except InputError:
        check_values(attention, mask)  # to say what is wrong of the whole, not of a piece of it
        raise
    return edges.reshape(*attention.shape[:-4], depth, n, n), mask


def _compiled(heads: str | int, count: int, dtype: Any) -> Callable[..., bool] | None:
    """Return what does the work of `check_values` and `_weigh` faster, or None if nothing does."""
    if heads in ("max", "min"):
        return None
    try:
        from jaxflow._flow.weigh import weigh

        one = np.ones((1, 1, 1, 1, 1), dtype)
        make_ready(weigh, one, np.empty((0, 1), bool), 0, 1, 0.5, 1e-3, np.ones((1, 1, 1, 1)))
    except (ImportError, CompilerError):  # flow itself will say so; these weights do without
        return None
    first, last = (0, count) if heads == "mean" else (int(heads), int(heads) + 1)

    def compiled(part: np.ndarray, mask: Any, residual: float, edges: np.ndarray) -> bool:
        mask = np.empty((0, part.shape[-1]), bool) if mask is None else mask
        return weigh(part, mask, first, last, float(residual), ROW_SUM_TOLERANCE, edges)

    return compiled


def _weigh(
    attention: np.ndarray, residual: float, heads: str | int, mask: np.ndarray | None
) -> np.ndarray:
    if heads == "mean":
        # Summed up in float64 without a copy of all heads in it, which would cost as much as flow.
        fused = attention[..., 0, :, :].astype(np.float64)
        for head in range(1, attention.shape[-3]):
            fused += attention[..., head, :, :]
        fused /= attention.shape[-3]
    else:
        fused = np.asarray(fuse_heads(attention, heads), np.float64)
    edges = edge_weights(
        fused[..., None, :, :],
        residual=residual,
        heads=heads if heads in ("max", "min") else 0,
        mask=mask,
    )
    return np.asarray(edges)


def flow(
    attention: Any,
    *,
    residual: float = 0.5,
    heads: str | int = "mean",
    mask: Any = None,
    sources: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    threads: int | None = None,
    patient: bool = False,
) -> np.ndarray:
    r"""Exact attention flow, the maximum flow from tokens of higher layers to the input tokens.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[..., n]`` boolean, True at real tokens. Flow from or to a padded token is 0.
    sources
        Tokens whose embeddings are explained: an index, a sequence of them, or None for all.
    layers
        Layers at which they are taken, 0-based and likewise; 0 is the lowest.
    threads
        How many threads share the work; None takes all cores. The result does not depend on it.
    patient
        Whether to begin what may take more than an hour on one core (`jaxflow._flow.cost`), such as
        all flows between 4,096 tokens, which may take weeks.

    Returns
    -------
    numpy.ndarray
        ``[..., L', S, n]`` float64, not normalised: entry ``[l, s, t]`` is the largest amount that
        can be sent from token s after layer l to input token t. Inside ``jit``, ``vmap`` or
        ``grad`` a JAX array of these values, in float32 unless ``jax_enable_x64`` is on.

    Raises
    ------
    InputError
        If the attention, the mask, an option or an index is not usable, or the work is too much to
        be begun unasked.

    Notes
    -----
    .. math:: F^{(l)}[s, t] = \max \text{flow from } (l, s) \text{ to } (0, t)

    on the graph whose edge :math:`(l, i) \to (l - 1, j)` has the capacity :math:`A^{(l)}[i, j]`,
    :math:`A = (1 - r) W + r I` [1]_. Computed on the host, in float64, and exact to 1e-9.

    The derivative of an entry with respect to the edges is 1 on the edges of its minimum cut and 0
    elsewhere. Where there are several such cuts, flow has a kink and the one nearest to the source
    gives a subgradient. Reverse mode only, and once: the derivative itself is a step function.

    Attention in float32 is a rounded one: as a cut's value is a sum of its edges, flow is off by at
    most the share :math:`2^{-23}` of itself, however many layers there are.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.full((2, 1, 2, 2), 0.5)
    >>> jaxflow.flow(attention, sources=0)
    array([[[0.75, 0.25]],
    <BLANKLINE>
           [[1.  , 0.5 ]]])
    """
    if is_traced(attention, residual, mask):
        return _traced(attention, residual, heads, mask, sources, layers, threads)
    attention, mask = check_layout(attention, mask)
    depth, n = attention.shape[-4], attention.shape[-1]
    levels = resolve_indices("layers", layers, depth)
    chosen = resolve_indices("sources", sources, n)
    if not patient:
        check_cost(math.prod(attention.shape[:-4]), n, levels, len(chosen))
    edges, _ = graph_edges(attention, residual, heads, mask, threads)
    return flow_tables(edges, levels, chosen, threads)


def _traced(
    attention: Any, residual: Any, heads: Any, mask: Any, sources: Any, layers: Any, threads: Any
) -> Any:
    from jaxflow._flow.differentiable import FlowOptions, traced_flow

    attention, mask = check_attention(attention, mask)
    depth, count, n = attention.shape[-4:-1]
    options = FlowOptions(
        check_heads(heads, count),
        resolve_indices("layers", layers, depth),
        resolve_indices("sources", sources, n),
        resolve_threads(threads),
    )
    return traced_flow(options, jnp.asarray(attention), check_residual(residual), mask)
