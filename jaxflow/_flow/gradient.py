"""Trace flow inside ``jit``, ``vmap`` and ``grad``: a callback to the host, its derivative a cut.

Flow is a minimum over cuts, each linear in the edges, so its derivative with respect to the edges
is the indicator of a minimum cut. From the edges it continues through residual connection and heads
to the attention by JAX's own rules.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._flow.threads import cut_tables, flow_tables
from jaxflow.attention import edge_weights, places_from_end


class FlowOptions(NamedTuple):
    """Options fixed when a traced flow is compiled; negative sources count from a text's end."""

    heads: str | int
    layers: tuple[int, ...]
    sources: tuple[int, ...]
    threads: int | None


def _host_edges(attention: Any, residual: Any, mask: Any, heads: str | int) -> np.ndarray:
    # Under vmap each argument has the same leading axes.
    share = np.asarray(residual, np.float64)[..., None, None, None]
    real = None if mask is None else np.asarray(mask)
    weights = edge_weights(
        np.asarray(attention), residual=share, heads=heads, mask=real, dtype=np.float64
    )
    return np.asarray(weights)


def _sources(options: FlowOptions, mask: Any) -> tuple[tuple[int, ...] | np.ndarray, Any]:
    """Return the sources, and ``[..., S]`` where a text has none of them; None where all have."""
    if mask is None or min(options.sources) >= 0:
        return options.sources, None
    places = np.asarray(places_from_end(options.sources, np.asarray(mask)))
    missing = places == mask.shape[-1]
    return np.where(missing, 0, places), missing


def _host_flow(options: FlowOptions, dtype: Any, attention: Any, residual: Any, mask: Any) -> Any:
    edges = _host_edges(attention, residual, mask, options.heads)
    sources, missing = _sources(options, mask)
    table = flow_tables(edges, options.layers, sources, options.threads)
    # No value was checked, so NaN must stay visible.
    table[~np.isfinite(edges).all((-3, -2, -1))] = np.nan
    if missing is not None:
        table[np.broadcast_to(missing[..., None, :, None], table.shape)] = np.nan
    return narrowed(table, edges, dtype)


def _host_cuts(
    options: FlowOptions, dtype: Any, attention: Any, residual: Any, mask: Any, pulls: Any
) -> Any:
    edges = _host_edges(attention, residual, mask, options.heads)
    sources, missing = _sources(options, mask)
    pulls = np.asarray(pulls, np.float64)
    cuts = cut_tables(edges, options.layers, sources, pulls, options.threads)
    undefined = ~np.isfinite(edges).all((-3, -2, -1))
    cuts[undefined if missing is None else undefined | missing.any(-1)] = np.nan
    return cuts.astype(dtype)


def narrowed(flows: np.ndarray, edges: np.ndarray, dtype: Any) -> np.ndarray:
    """Return flows on `edges` in another dtype, none rounded above its bound min(1, column sum)."""
    if dtype == np.float64:
        return flows
    bound = np.minimum(1.0, edges[..., 0, :, :].sum(-2))[..., None, None, :]
    largest = bound.astype(dtype)
    largest = np.where(largest > bound, np.nextafter(largest, np.zeros((), dtype)), largest)
    return np.minimum(flows.astype(dtype), largest)


def _varying(values: Any, attention: jax.Array) -> Any:
    """Return a callback's values ``[..., l, s, n]`` as they are, typed for `jax.shard_map`.

    They differ between the devices on which attention does, which a callback does not say.
    """
    any_of_it = attention[..., 0, 0, 0, 0, None, None, None]
    return jnp.where(any_of_it == 0, values, values)


def _spread(residual: Any, attention: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(residual, attention.dtype), attention.shape[:-4])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def traced_flow(options: FlowOptions, attention: jax.Array, residual: Any, mask: Any) -> jax.Array:
    """Return the flows ``[..., L', S, n]`` of an attention that has no values yet, in its dtype.

    Computed in float64 on the host.
    """
    n = attention.shape[-1]
    shape = (*attention.shape[:-4], len(options.layers), len(options.sources), n)
    flows = jax.pure_callback(
        partial(_host_flow, options, attention.dtype),
        jax.ShapeDtypeStruct(shape, attention.dtype),
        attention,
        _spread(residual, attention),
        mask,
        vmap_method="broadcast_all",
    )
    return _varying(flows, attention)


def _forward(
    options: FlowOptions, attention: jax.Array, residual: Any, mask: Any
) -> tuple[jax.Array, tuple[jax.Array, Any, Any]]:
    return traced_flow(options, attention, residual, mask), (attention, residual, mask)


def _backward(
    options: FlowOptions, kept: tuple[jax.Array, Any, Any], pulls: jax.Array
) -> tuple[Any, Any, None]:
    attention, residual, mask = kept
    n, depth = attention.shape[-1], attention.shape[-4]

    def edges_of(attention: jax.Array, residual: Any) -> Any:
        return edge_weights(attention, residual=residual, heads=options.heads, mask=mask)

    cuts = jax.pure_callback(
        partial(_host_cuts, options, attention.dtype),
        jax.ShapeDtypeStruct((*attention.shape[:-4], depth, n, n), attention.dtype),
        attention,
        _spread(residual, attention),
        mask,
        pulls,
        vmap_method="broadcast_all",
    )
    _, pull_back = jax.vjp(edges_of, attention, residual)
    return *pull_back(_varying(cuts, attention)), None


traced_flow.defvjp(_forward, _backward)
