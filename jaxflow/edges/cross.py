r"""Compute rollout and exact flow through an encoder and a decoder as one graph.

A decoder block is self-attention, then cross-attention, each with its residual connection. With E,
S and C the edges of the three kinds, rows made to sum to 1, with shares e, s and c of the residual
connections, and :math:`E' = (1 - e) E + e I`, :math:`S' = (1 - s) S + s I`, the graph's edges are

* from target token i after block l to source token j after the encoder's last layer, whatever l is:
  :math:`(1 - c)\,C^{(l)}_{ij}`;
* from target token i after block l to itself between the block's two attentions: c;
* from there to target token k before block l: :math:`S'^{(l)}_{ik}`;
* from source token i after an encoder layer to source token j before it: :math:`E'_{ij}`.

Paths end at the m source tokens or at the n tokens of the decoder's input.

Flow is computed on a stack of equal layers, as the kernel takes it, over m + n tokens: Le layers
:math:`\mathrm{diag}(E', I)`, then for each block :math:`\mathrm{diag}(I, S')` and
:math:`\begin{pmatrix} I & 0\\ (1 - c)\,C & c\,I\end{pmatrix}`. **The stack's flow is the
graph's.** The stack is the graph with some nodes replaced by chains whose links carry 1: the
encoder's top, which every block reads, and the decoder's input, parallel to the encoder's layers.
Contracting each chain into its node turns a flow of the stack into one of the graph, so the stack
carries no more. It carries as much: the flow out of the source is at most the sum of its row, 1.
Neither graph has a cycle, so a flow is a sum of paths from source to sink, and no node carries more
than all of them together, at most 1. Hence no link ever binds, for sinks of either kind, even where
the edges into one token sum to more than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import (
    Indices,
    check_residual,
    in_own_precision,
    refuse_traced,
    resolve_indices,
    resolve_tokens,
    take_rows,
)
from jaxflow.edges._aggregate import Share, capacities, check_aggregator, row_normalised
from jaxflow.edges.cross_trace import CROSS_EDGES, CrossEdge, CrossTrace, check_cross
from jaxflow.errors import InputError

CrossAggregator = Literal["none", "rollout", "flow"]
CROSS_AGGREGATORS: tuple[CrossAggregator, ...] = get_args(CrossAggregator)


def aggregate_cross(
    trace: CrossTrace,
    edge: CrossEdge = "raw",
    how: CrossAggregator = "rollout",
    *,
    residual: Share | Sequence[Share] = 0.5,
    sources: Indices = None,
    threads: int | None = None,
) -> Any:
    """Combine the edges of an encoder and a decoder down to source tokens and decoder input.

    Parameters
    ----------
    trace
        Attention of the three kinds.
    edge
        ``raw``: attention averaged over heads. ``gradient``: the average of the positive part of
        attention times its gradient. ``given``: the trace's fields are edges of any size, with one
        head where they are fused already; negative ones count as 0.
    how
        ``rollout``, ``flow``, or ``none``: one layer's cross-attention beside its self-attention,
        each fused, without residual connections.
    residual
        Share of the residual connections, from 0 to 1: a number, or three of them, of encoder,
        decoder self-attention and cross-attention. A row of zeros is all residual.
    sources
        Decoder tokens whose rows to return: an int, a sequence, or None for all. Flow computes no
        others. With `target_mask`, negative ones count from each text's own end. Not the source
        sentence's tokens: those are columns.
    threads
        For flow; None takes all cores.

    Returns
    -------
    array
        ``[..., Ld, S, m + n]``: the weights of the m source tokens, then of the n tokens of the
        decoder's input, after each decoder layer. Rows of rollout sum to 1; padded rows and columns
        are 0. In the input's precision, JAX for JAX, else NumPy; flow is float64 NumPy.

    Raises
    ------
    InputError
        If an argument is unknown, the trace lacks something or its parts do not fit, or for flow
        inside ``jit``, ``vmap`` or ``grad``.

    Notes
    -----
    The graph is in the module's docstring. As it is one graph, each token's weight of 1 is divided
    between the source and the decoder's own past.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxflow.edges import CrossTrace, aggregate_cross
    >>> half = np.full((1, 1, 2, 2), 0.5)
    >>> aggregate_cross(CrossTrace(half, half, half))[-1]
    array([[0.25 , 0.25 , 0.375, 0.125],
           [0.25 , 0.25 , 0.125, 0.375]])
    """
    check_aggregator(how, CROSS_AGGREGATORS)
    if edge not in CROSS_EDGES:
        raise InputError(f"edge weight must be one of {', '.join(CROSS_EDGES)}, got {edge!r}")
    parts = check_cross(trace, edge, f"{how} of {edge} edges")
    shares = _shares(residual)
    if how == "flow":
        return _flow(parts, shares, sources, threads)
    rows = resolve_tokens("sources", sources, parts[2].shape[-2], parts[4])
    function = _beside if how == "none" else _rollout
    return in_own_precision(lambda *given: take_rows(function(given, shares), rows), *parts)


def _shares(residual: Any) -> tuple[Any, Any, Any]:
    """Check the residual shares and return those of encoder, self-attention, cross-attention."""
    if isinstance(residual, tuple | list):
        if len(residual) != 3:
            raise InputError(
                "residual must be a number or three, of encoder, decoder self-attention and "
                f"cross-attention, got {len(residual)} of them"
            )
        return tuple(check_residual(share) for share in residual)
    return (check_residual(residual),) * 3


def cross_edges(parts: tuple[Any, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Fuse the heads of each kind of `check_cross`'s result: attention, times gradient if there.

    Returns ``[..., Le, m, m]``, ``[..., Ld, n, n]`` and ``[..., Ld, n, m]`` of one dtype, 0 at
    padding.
    """
    attention, (source, target), gradients = parts[:3], parts[3:5], parts[5:]
    masks = (source, source), (target, target), (target, source)
    dtype = jnp.result_type(*attention)
    fused = []
    for kind, gradient, (query, key) in zip(attention, gradients, masks, strict=True):
        edges = jnp.asarray(kind, dtype)
        if gradient is not None:
            edges = jnp.maximum(edges * jnp.asarray(gradient, dtype), 0)
        edges = edges.mean(-3)
        if query is not None:
            edges = jnp.where(jnp.asarray(query)[..., None, :, None], edges, 0)
        if key is not None:
            edges = jnp.where(jnp.asarray(key)[..., None, None, :], edges, 0)
        fused.append(edges)
    return fused[0], fused[1], fused[2]


@jax.jit
def _capacities(
    parts: tuple[Any, ...], shares: tuple[Any, Any, Any]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return E', S', (1 - c) C, all 0 at padding, and c of each decoder token."""
    encoder, decoder, cross = cross_edges(parts)
    source, target = parts[3:5]
    rows = row_normalised(cross)
    keep = jnp.where(rows.sum(-1) == 0, 1.0, shares[2]).astype(rows.dtype)
    down = (1 - keep[..., None]) * rows
    return (
        capacities(encoder, held=False, residual=shares[0], mask=source),
        capacities(decoder, held=False, residual=shares[1], mask=target),
        down,
        keep,
    )


@jax.jit
def _beside(parts: tuple[Any, ...], shares: tuple[Any, Any, Any]) -> jax.Array:
    _, decoder, cross = cross_edges(parts)
    return jnp.concatenate([cross, decoder], -1)


@jax.jit
def _rollout(parts: tuple[Any, ...], shares: tuple[Any, Any, Any]) -> jax.Array:
    encoder, decoder, down, keep = _capacities(parts, shares)
    m, n = down.shape[-1], down.shape[-2]
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    layers = jnp.moveaxis(encoder, -3, 0)
    top, _ = jax.lax.scan(lambda below, layer: (product(layer, below), None), layers[0], layers[1:])
    inputs = jnp.concatenate([jnp.zeros((n, m), down.dtype), jnp.eye(n, dtype=down.dtype)], -1)

    def block(below: jax.Array, layer: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        decoder, down, keep = layer
        looked = product(down, top)
        above = keep[..., None] * product(decoder, below)
        above = above.at[..., :m].add(looked)
        return above, above

    blocks = tuple(
        jnp.moveaxis(part, axis, 0) for part, axis in ((decoder, -3), (down, -3), (keep, -2))
    )
    start = jnp.broadcast_to(inputs, (*down.shape[:-3], n, m + n))
    return jnp.moveaxis(jax.lax.scan(block, start, blocks)[1], 0, -3)


def _flow(
    parts: tuple[Any, ...],
    shares: tuple[Any, Any, Any],
    sources: Indices,
    threads: int | None,
) -> np.ndarray:
    refuse_traced("flow through two stacks", parts, shares)
    host = (None if part is None else np.asarray(part) for part in parts)
    wide = [
        part if part is None or part.dtype == np.bool_ else part.astype(np.float64) for part in host
    ]
    encoder, decoder, down, keep = in_own_precision(
        lambda *given: _capacities(given, shares), *wide
    )
    from jaxflow._flow import flow

    batch, (depth, m), n = encoder.shape[:-3], encoder.shape[-3:-1], decoder.shape[-1]
    sizes = zip(wide[3:5], (m, n), strict=True)
    masks = [np.ones((*batch, size), bool) if mask is None else mask for mask, size in sizes]
    resolve_tokens("sources", sources, n, masks[1])  # each text has them
    rows = resolve_indices("sources", sources, n, signed=True)
    stack = joint_stack(encoder, decoder, down, keep)
    table = flow(
        stack[..., None, :, :],
        residual=0,
        mask=np.concatenate(masks, -1),
        # The last tokens of a text are the target's.
        sources=[row if row < 0 else m + row for row in rows],
        layers=range(depth + 1, stack.shape[-3], 2),
        threads=threads,
    )
    some = np.any(masks[1], axis=-1, keepdims=True)
    return np.where(some[..., None, None], table, 0)


def joint_stack(
    encoder: np.ndarray, decoder: np.ndarray, down: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """Return E', S', (1 - c) C and c as one stack, ``[..., Le + 2 Ld, m + n, m + n]``."""
    depth, m = encoder.shape[-3:-1]
    blocks, n = decoder.shape[-3:-1]
    stack = np.zeros((*encoder.shape[:-3], depth + 2 * blocks, m + n, m + n))
    stack[...] = np.eye(m + n)
    stack[..., :depth, :m, :m] = encoder
    stack[..., depth::2, m:, m:] = decoder
    stack[..., depth + 1 :: 2, m:, :m] = down
    stack[..., depth + 1 :: 2, m:, m:] *= keep[..., None]
    return stack
