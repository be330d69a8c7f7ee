"""List edge weights and propagations by name, and evaluate them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from jaxflow.attention import mask_tokens
from jaxflow.edges.trace import Trace, check_trace
from jaxflow.errors import InputError


@dataclasses.dataclass(frozen=True)
class EdgeWeight:
    """A definition of the weights of the edges between two layers.

    `aggregate` takes any; those listed in `_listed` below are known by name to the command line,
    the leaderboard and the documentation.

    Attributes
    ----------
    name
        Lower case with hyphens.
    title
        Its name in tables.
    weigh
        From a `Trace` to ``[..., L, n, n]``, rows queries; a pure JAX function. Rows need not sum
        to 1. Padded queries and keys may hold anything finite: they are masked afterwards.
    source
        The publication it comes from.
    needs
        The fields of the trace besides attention that it reads.
    residual
        Whether the weights include the residual connection; aggregators add it otherwise.
    signed
        Whether weights may be negative. Flow and row sums take their positive part.
    below
        The weights of a layer that has others above it, where they differ from those of the top
        layer: of a single head, the average of all. None where they do not differ.
    aggregators
        The aggregators that give it a result of its own, for tables that list them: where rows sum
        to 1 with the residual connection in them, sums of paths equal rollout. None is all.
    """

    name: str
    title: str
    weigh: Callable[[Trace], jax.Array]
    source: str
    needs: tuple[str, ...] = ()
    residual: bool = False
    signed: bool = False
    below: Callable[[Trace], jax.Array] | None = None
    aggregators: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class EdgeFamily:
    """Edge weights that differ by a number, named ``PREFIX-NUMBER``.

    Attributes
    ----------
    prefix
        The part of their names before the number.
    number
        What the number is, for error messages.
    make
        From the number, as it was written, to the edge weight; `InputError` for an unusable one.
    shown
        From the number of heads to the numbers that catalogue and leaderboard list.
    """

    prefix: str
    number: str
    make: Callable[[str], EdgeWeight]
    shown: Callable[[int], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Propagation:
    """A method that propagates each input token's vector through a model, without an aggregator.

    Attributes
    ----------
    name
        Lower case with hyphens.
    title
        Its name in tables.
    follow
        From a `Trace` to a token attention ``[..., L, n, n]``, rows the tokens after a layer; a
        pure JAX function. Padded tokens may hold anything finite.
    source
        The publication it comes from.
    needs
        The fields of the trace besides attention that it reads.
    """

    name: str
    title: str
    follow: Callable[[Trace], jax.Array]
    source: str
    needs: tuple[str, ...] = ()


@functools.cache
def _listed() -> tuple[EdgeWeight | EdgeFamily, ...]:
    """Return all edge weights and families in the order of catalogue and leaderboard."""
    from jaxflow.edges import _attention, _gradients, _norms, _zeroing

    return (
        _norms.ALTI,
        _attention.DISCARD,
        _norms.EFFECTIVE,
        _norms.GLOBENC,
        *_gradients.GRADIENTS,
        *_attention.FUSED,
        *_norms.NORMS,
        _gradients.ATTRIBUTION,
        _attention.RESIDUAL,
        _attention.HEAD,
        *_attention.SINKS,
        _zeroing.ZEROING,
    )


@functools.cache
def edge_families() -> Mapping[str, EdgeFamily]:
    """Return the families of edge weights that differ by a number, prefix -> family."""
    return MappingProxyType(
        {each.prefix: each for each in _listed() if isinstance(each, EdgeFamily)}
    )


@functools.cache
def edge_weights(heads: int = 0) -> Mapping[str, EdgeWeight]:
    """Return all edge weights, name -> edge weight.

    Parameters
    ----------
    heads
        How many heads are listed one by one; 0 lists none.
    """
    found: list[EdgeWeight] = []
    for each in _listed():
        if isinstance(each, EdgeWeight):
            found.append(each)
        else:
            found += [each.make(number) for number in each.shown(heads)]
    return MappingProxyType({edge.name: edge for edge in found})


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
    families = (f"{prefix}-NUMBER" for prefix in edge_families())
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
        ``[..., L, n, n]``, rows queries; rows sum to 1 only where the edge weight is so defined.

    Raises
    ------
    InputError
        If there is none of that name, or the trace lacks what it needs or holds NaN.
    """
    edge = edge_weight(edge) if isinstance(edge, str) else edge
    trace = check_trace(trace, edge.needs, f"the edge weight {edge.name}")
    return _masked(edge.weigh(trace), trace)


def weigh_checked(trace: Trace, edge: EdgeWeight) -> tuple[jax.Array, jax.Array | None]:
    """Return `weigh` of a trace checked before, and what layers below have, None if the same."""
    below = None if edge.below is None else _masked(edge.below(trace), trace)
    return _masked(edge.weigh(trace), trace), below


def _masked(weights: jax.Array, trace: Trace) -> jax.Array:
    return jnp.asarray(mask_tokens(jnp.asarray(weights), trace.mask))


def parse_share(prefix: str, written: str, *, whole: bool) -> float:
    """Parse the number of ``PREFIX-NUMBER`` as a share of 1; `whole` allows 1 itself."""
    wanted = "from 0 to 1" if whole else "of at least 0 and below 1"
    if re.fullmatch(r"[01](\.[0-9]{1,9})?", written, re.ASCII):
        share = float(written)
        if share < 1 or (whole and share == 1):
            return share
    raise InputError(f"{prefix} must be a share {wanted}, as in {prefix}-0.5, got {written!r}")


@functools.cache
def propagations() -> Mapping[str, Propagation]:
    """Return all propagations, name -> propagation."""
    from jaxflow.edges.decompx import DECOMPX

    return MappingProxyType({each.name: each for each in (DECOMPX,)})


def propagation(name: str) -> Propagation:
    """Return one propagation.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    known = propagations()
    if name not in known:
        raise InputError(f"propagation must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def propagate(trace: Trace, how: Propagation | str) -> jax.Array:
    """Propagate the input tokens' vectors and return each one's contribution, 0 at padded tokens.

    Parameters
    ----------
    trace
        A forward pass.
    how
        A propagation, or the name of one.

    Returns
    -------
    jax.Array
        ``[..., L, n, n]``: row i of layer l is each input token's contribution to token i after
        layer l. Rows need not sum to 1.

    Raises
    ------
    InputError
        If there is none of that name, or the trace lacks what it needs or holds NaN.
    """
    how = propagation(how) if isinstance(how, str) else how
    trace = check_trace(trace, how.needs, f"the propagation {how.name}")
    return _masked(how.follow(trace), trace)
