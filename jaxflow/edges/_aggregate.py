r"""Combine the edges of all layers into each input token's weight.

With :math:`E^{(l)}` the edges of layer l, their rows made to sum to 1, and
:math:`A^{(l)} = (1 - r) E^{(l)} + r I`,

=========== =====================================================================================
``none``    :math:`E^{(l)}` as it is: one layer alone
``rollout`` :math:`A^{(l)} A^{(l - 1)} \cdots A^{(1)}`
``flow``    the maximum flow from a token after layer l to each input token, capacities A
``paths``   :math:`(I + W^{(l)}) \cdots (I + W^{(1)})`, W the edges, rows not normalised: the
            sum over all paths, including those that bypass layers
``product`` :math:`W^{(l)} \cdots W^{(1)}`, rows not normalised: the sum over all paths that
            bypass no layer
=========== =====================================================================================

The top layer may hold other edges than the layers below it (a single head, where all are averaged
below): then the left factor is that of the former, and the others of the latter.

An edge weight that includes the residual connection is used as A, and as I + W. Negative weights
are set to 0 before rows are normalised and in capacities; sums of paths keep their signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._rollout import layers_of, multiply
from jaxflow.attention import (
    Indices,
    check_residual,
    is_traced,
    mask_tokens,
    resolve_tokens,
    take_rows,
)
from jaxflow.edges.registry import EdgeWeight, edge_weight, weigh_checked
from jaxflow.edges.trace import Trace, check_trace
from jaxflow.errors import InputError

Aggregator = Literal["none", "rollout", "flow", "paths", "product"]
AGGREGATORS: tuple[Aggregator, ...] = get_args(Aggregator)

Share = float | jax.Array


def check_aggregator(how: str, known: Sequence[str] = AGGREGATORS) -> None:
    """Raise `InputError` for an aggregator that is not among the `known`."""
    if how not in known:
        raise InputError(f"aggregator must be one of {', '.join(known)}, got {how!r}")


def row_normalised(edges: jax.Array) -> jax.Array:
    """Set negative weights to 0 and divide rows by their sum; a row of zeros or NaN stays one."""
    positive = jnp.maximum(edges, 0)
    total = positive.sum(-1, keepdims=True)
    return positive / jnp.where(total == 0, 1, total)


def identity_like(edges: jax.Array) -> jax.Array:
    """Return identity matrices of the shape ``[..., n, n]`` and dtype of `edges`."""
    return jnp.broadcast_to(jnp.eye(edges.shape[-1], dtype=edges.dtype), edges.shape)


def capacities(
    edges: jax.Array, *, held: bool, residual: Share = 0.5, mask: jax.Array | None = None
) -> jax.Array:
    """Return A of the module's docstring, ``[..., L, n, n]``, rows of real tokens summing to 1.

    `held` is whether the edges include the residual connection, `residual` its share where they do
    not; a row of zeros is all residual.
    """
    rows = row_normalised(edges)
    share = jnp.where(rows.sum(-1, keepdims=True) == 0, 1.0, 0.0 if held else residual)
    return jnp.asarray(mask_tokens((1 - share) * rows + share * identity_like(edges), mask))


@partial(jax.jit, static_argnames=("how", "held"))
def combine(
    edges: jax.Array,
    how: Aggregator,
    *,
    held: bool,
    residual: Share = 0.5,
    mask: jax.Array | None = None,
    below: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Return ``[..., L, S, n]``, the edges of all layers combined by every aggregator but ``flow``.

    `below`, ``[..., L, n, n]``, are the edges of layers below the top one; None is `edges`
    themselves. `rows`, ``[S]`` or ``[..., S]``, are the tokens whose rows are wanted; None is all.
    The other arguments are those of `capacities`.
    """

    def steps(edges: jax.Array) -> list[jax.Array]:
        if how == "rollout":
            edges = capacities(edges, held=held, residual=residual, mask=mask)
        elif how == "paths" and not held:
            edges = jnp.asarray(mask_tokens(edges + identity_like(edges), mask))
        elif how == "paths":
            edges = jnp.asarray(mask_tokens(edges, mask))
        return layers_of(edges)

    def taken(table: jax.Array) -> jax.Array:
        return table if rows is None else jnp.asarray(take_rows(table, rows))

    if how == "none":
        return taken(edges)
    tops = steps(edges)
    under = tops if below is None else steps(below)
    if rows is None and below is None:
        return multiply(tops)
    return multiply(under, [taken(top) for top in tops])


@overload
def aggregate(
    trace: Trace,
    edge: EdgeWeight | str,
    how: Literal["flow"],
    *,
    residual: Share = 0.5,
    sources: Indices = None,
    threads: int | None = None,
) -> np.ndarray: ...
@overload
def aggregate(
    trace: Trace,
    edge: EdgeWeight | str = "raw",
    how: Literal["none", "rollout", "paths", "product"] = "rollout",
    *,
    residual: Share = 0.5,
    sources: Indices = None,
    threads: int | None = None,
) -> jax.Array: ...
def aggregate(
    trace: Trace,
    edge: EdgeWeight | str = "raw",
    how: Aggregator = "rollout",
    *,
    residual: Share = 0.5,
    sources: Indices = None,
    threads: int | None = None,
) -> jax.Array | np.ndarray:
    """Compute the edge weights of a forward pass and combine them down to the input.

    Parameters
    ----------
    trace
        A forward pass.
    edge
        An edge weight, or the name of one.
    how
        One of `AGGREGATORS`: ``none``, ``rollout``, ``flow``, ``paths``, ``product``.
    residual
        Share of the residual connection, where the edge weight does not include it.
    sources
        Tokens whose rows to return: an int, a sequence, or None for all; with a mask, negative ones
        count from each text's own end. Flow computes no others.
    threads
        For flow; None takes all cores.

    Returns
    -------
    array
        ``[..., L, S, n]``: a JAX array, of flow float64 NumPy but inside ``jit``.

    Raises
    ------
    InputError
        If an argument is unknown, or the trace lacks what the edge weight needs or holds NaN.
    """
    check_aggregator(how)
    residual = check_residual(residual)
    edge = edge_weight(edge) if isinstance(edge, str) else edge
    trace = check_trace(trace, edge.needs, f"the edge weight {edge.name}")
    n, mask = trace.attention.shape[-1], trace.mask
    chosen = resolve_tokens("sources", sources, n, mask)
    edges, below = weigh_checked(trace, edge)
    real = None if mask is None else jnp.asarray(mask)
    given: dict[str, Any] = {"held": edge.residual, "residual": residual, "mask": real}
    if how == "flow":
        from jaxflow._flow import flow
        from jaxflow._flow.table import flow_of_tops

        options: dict[str, Any] = {"mask": mask, "sources": sources, "threads": threads}
        rows = [capacities(each, **given) for each in (edges, below) if each is not None]
        if not is_traced(mask, *rows):  # to be computed in float64
            rows, options["mask"] = jax.device_get((rows, mask))
        if below is not None:
            return flow_of_tops(*rows, **options)
        return flow(rows[0][..., None, :, :], residual=0, **options)
    places = None if sources is None else jnp.asarray(chosen)
    return combine(edges, how, **given, below=below, rows=places)
