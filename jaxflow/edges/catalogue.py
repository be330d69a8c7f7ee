"""All edge weights that there are, by their names: what lies in ``kinds/``, found by looking."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

import jaxflow.edges.kinds
from jaxflow.attention import mask_tokens
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import Trace, require
from jaxflow.errors import InputError

__all__ = ["edge_weight", "edge_weights", "weigh"]


@functools.cache
def edge_weights() -> Mapping[str, EdgeWeight]:
    """Return all edge weights, name -> edge weight, in alphabetical order of their files.

    Raises
    ------
    InputError
        If two files give the same name.
    """
    found: dict[str, EdgeWeight] = {}
    for file in sorted(each.name for each in pkgutil.iter_modules(jaxflow.edges.kinds.__path__)):
        module = importlib.import_module(f"jaxflow.edges.kinds.{file}")
        listed = module.EDGES if isinstance(module.EDGES, tuple) else (module.EDGES,)
        for edge in listed:
            if edge.name in found:
                raise InputError(f"edge weights must have different names, {edge.name} comes twice")
            found[edge.name] = edge
    return MappingProxyType(found)


def edge_weight(name: str) -> EdgeWeight:
    """Return one edge weight.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    known = edge_weights()
    if name not in known:
        raise InputError(f"edge weight must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def weigh(trace: Trace, edge: EdgeWeight | str) -> jax.Array:
    """Return the weights of all edges, 0 at padded queries and keys.

    Parameters
    ----------
    trace
        A forward pass.
    edge
        An edge weight, or the name of one.

    Returns
    -------
    jax.Array
        ``[..., L, n, n]``, rows queries; rows sum to 1 only where the edge weight says so.

    Raises
    ------
    InputError
        If there is none of that name, or the trace lacks what it needs.
    """
    edge = edge_weight(edge) if isinstance(edge, str) else edge
    require(trace, edge.needs, f"the edge weight {edge.name}")
    weights = jnp.asarray(edge.weigh(trace))
    return jnp.asarray(mask_tokens(weights, trace.mask))
