"""All edge weights that there are, by their names: what lies in ``kinds/``, found by looking."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType, ModuleType

import jax
import jax.numpy as jnp

import jaxflow.edges.kinds
from jaxflow.attention import mask_tokens
from jaxflow.edges.kind import EdgeFamily, EdgeWeight
from jaxflow.edges.trace import Trace, require
from jaxflow.errors import InputError

__all__ = ["edge_families", "edge_weight", "edge_weights", "weigh", "weigh_below"]


@functools.cache
def _files() -> tuple[ModuleType, ...]:
    names = sorted(each.name for each in pkgutil.iter_modules(jaxflow.edges.kinds.__path__))
    return tuple(importlib.import_module(f"jaxflow.edges.kinds.{name}") for name in names)


@functools.cache
def edge_families() -> Mapping[str, EdgeFamily]:
    """Return the families of edge weights that differ by a number, prefix -> family."""
    found = (getattr(file, "FAMILY", None) for file in _files())
    return MappingProxyType({each.prefix: each for each in found if each is not None})


@functools.cache
def edge_weights(heads: int = 0) -> Mapping[str, EdgeWeight]:
    """Return all edge weights, name -> edge weight, in alphabetical order of their files.

    Parameters
    ----------
    heads
        How many heads are listed one by one; 0 lists none.

    Raises
    ------
    InputError
        If two files give the same name.
    """
    found: dict[str, EdgeWeight] = {}
    for file in _files():
        given = getattr(file, "EDGES", ())
        listed = list(given if isinstance(given, tuple) else (given,))
        if hasattr(file, "FAMILY"):
            listed += [file.FAMILY.make(number) for number in file.FAMILY.shown(heads)]
        for edge in listed:
            if edge.name in found:
                raise InputError(f"edge weights must have different names, {edge.name} comes twice")
            found[edge.name] = edge
    return MappingProxyType(found)


def edge_weight(name: str) -> EdgeWeight:
    """Return one edge weight, such as ``raw``, or ``head-3`` of a family.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    known = edge_weights()
    if name in known:
        return known[name]
    prefix, _, number = name.rpartition("-")
    if prefix in edge_families():
        return edge_families()[prefix].make(number)
    families = (f"{family.prefix}-NUMBER" for family in edge_families().values())
    raise InputError(f"edge weight must be one of {', '.join((*known, *families))}, got {name!r}")


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


def weigh_below(trace: Trace, edge: EdgeWeight) -> jax.Array | None:
    """Return what the layers below hold, as `weigh`; None where it is no other."""
    if edge.below is None:
        return None
    return jnp.asarray(mask_tokens(jnp.asarray(edge.below(trace)), trace.mask))
