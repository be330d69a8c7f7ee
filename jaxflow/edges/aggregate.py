r"""Aggregators: how the edges of all layers become what each input token counts for.

With :math:`E^{(l)}` the edges of layer l, their rows made to sum to 1, and
:math:`A^{(l)} = (1 - r) E^{(l)} + r I`,

=========== =====================================================================================
``none``    :math:`E^{(l)}` as it is: one layer alone
``rollout`` :math:`A^{(l)} A^{(l - 1)} \cdots A^{(1)}`
``flow``    the maximum flow from a token after layer l to each input token, capacities A
``paths``   :math:`(I + W^{(l)}) \cdots (I + W^{(1)})`, W the edges, rows not normalised: the
            sum over all paths, layers passed by included
``product`` :math:`W^{(l)} \cdots W^{(1)}`, rows not normalised: the sum over all paths that pass
            no layer by
=========== =====================================================================================

The layer that is looked at may hold other edges than as a layer below (a single head, where all are
averaged below): then the left factor is that of the first, and the others of the second.

An edge weight that holds the residual connection already is taken for A, and for I + W. Negative
weights are set to 0 before rows are normalised and in capacities; sums of paths keep their signs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxflow.attention import mask_tokens
from jaxflow.edges.catalogue import edge_weight, weigh, weigh_below
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import Trace
from jaxflow.errors import InputError

__all__ = ["AGGREGATORS", "Aggregator", "aggregate", "capacities", "combine", "row_normalised"]

Aggregator = Literal["none", "rollout", "flow", "paths", "product"]
AGGREGATORS: tuple[Aggregator, ...] = ("none", "rollout", "flow", "paths", "product")


def row_normalised(edges: jax.Array) -> jax.Array:
    """Set negative weights to 0 and divide rows by their sum; a row of zeros stays one."""
    positive = jnp.maximum(edges, 0)
    total = positive.sum(-1, keepdims=True)
    return jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), 0)


def capacities(
    edges: jax.Array, *, held: bool, residual: Any = 0.5, mask: jax.Array | None = None
) -> jax.Array:
    """Return A of the module's docstring: rows of real tokens sum to 1.

    Parameters
    ----------
    edges
        ``[..., L, n, n]``.
    held
        Whether they hold the residual connection already.
    residual
        Its share, where they do not. A row of zeros is all residual.
    mask
        ``[..., n]`` boolean, True at real tokens.
    """
    rows = row_normalised(edges)
    identity = jnp.broadcast_to(jnp.eye(edges.shape[-1], dtype=edges.dtype), edges.shape)
    share = jnp.where(rows.sum(-1, keepdims=True) > 0, 0.0 if held else residual, 1.0)
    return jnp.asarray(mask_tokens((1 - share) * rows + share * identity, mask))


@partial(jax.jit, static_argnames=("how", "held"))
def combine(
    edges: jax.Array,
    how: Aggregator,
    *,
    held: bool,
    residual: Any = 0.5,
    mask: jax.Array | None = None,
    below: jax.Array | None = None,
) -> jax.Array:
    """Combine the edges of all layers on the device: every aggregator but ``flow``.

    `below`, ``[..., L, n, n]``, is what a layer holds under others; None is `edges` themselves.

    Returns
    -------
    jax.Array
        ``[..., L, n, n]``: row i of layer l is what each input token counts for.
    """
    if how == "none":
        return edges
    identity = jnp.broadcast_to(jnp.eye(edges.shape[-1], dtype=edges.dtype), edges.shape)

    def steps(edges: jax.Array) -> jax.Array:
        if how == "rollout":
            return capacities(edges, held=held, residual=residual, mask=mask)
        if how == "paths":
            return jnp.asarray(mask_tokens(edges if held else edges + identity, mask))
        return edges

    tops = jnp.moveaxis(steps(edges), -3, 0)
    unders = tops if below is None else jnp.moveaxis(steps(below), -3, 0)

    def step(under: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        above = jnp.matmul(layer, under, precision=jax.lax.Precision.HIGHEST)
        return above, above

    _, rest = jax.lax.scan(step, unders[0], unders[1:])
    if below is not None:
        under = jnp.concatenate([unders[:1], rest])[:-1]
        rest = jnp.matmul(tops[1:], under, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(jnp.concatenate([tops[:1], rest]), 0, -3)


def aggregate(
    trace: Trace,
    edge: EdgeWeight | str = "raw",
    how: Aggregator = "rollout",
    *,
    residual: Any = 0.5,
    sources: Any = None,
    threads: int | None = None,
) -> Any:
    """Weigh the edges of a forward pass and follow them down to the input.

    Parameters
    ----------
    trace
        A forward pass.
    edge
        An edge weight, or the name of one.
    how
        One of `AGGREGATORS`.
    residual
        Share of the residual connection, where the edge weight does not hold it.
    sources
        Tokens whose rows are wanted: an int, a sequence, or None for all. Flow works out no others.
    threads
        For flow; None takes all cores.

    Returns
    -------
    array
        ``[..., L, S, n]``: a JAX array, of flow float64 NumPy.

    Raises
    ------
    InputError
        If an argument is unknown or the trace lacks what the edge weight needs.
    """
    if how not in AGGREGATORS:
        raise InputError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {how!r}")
    edge = edge_weight(edge) if isinstance(edge, str) else edge
    edges, below = weigh(trace, edge), weigh_below(trace, edge)
    mask = None if trace.mask is None else jnp.asarray(trace.mask)
    if how == "flow":
        from jaxflow._flow import flow
        from jaxflow._flow.table import flow_of_tops

        held: dict[str, Any] = {"held": edge.residual, "residual": residual, "mask": mask}
        rows = jax.device_get(capacities(edges, **held))
        real = None if mask is None else jax.device_get(mask)
        options: dict[str, Any] = {"mask": real, "sources": sources, "threads": threads}
        if below is not None:
            return flow_of_tops(rows, jax.device_get(capacities(below, **held)), **options)
        return flow(rows[..., None, :, :], residual=0, **options)
    combined = combine(edges, how, held=edge.residual, residual=residual, mask=mask, below=below)
    if sources is None:
        return combined
    picked = [sources] if isinstance(sources, int) else list(sources)
    return combined[..., picked, :]
