"""Propagations: methods that follow each input token's vector itself, not weights of edges.

They need no aggregator: what comes out says for each layer what each *input* token counts for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from jaxflow.attention import mask_tokens
from jaxflow.edges.trace import Trace, require
from jaxflow.errors import InputError

__all__ = ["Propagation", "propagate", "propagation", "propagations"]

#: The files of this folder that have one (or a tuple of them) as ``PROPAGATIONS``.
_FILES = ("decompx",)


@dataclasses.dataclass(frozen=True)
class Propagation:
    """One way to follow the input tokens' vectors through a model.

    Attributes
    ----------
    name
        What it is asked for by, lower case with hyphens.
    title
        How tables call it.
    follow
        From a `Trace` to a token attention ``[..., L, n, n]``, rows the tokens after a layer; a
        pure JAX function. Padded tokens may hold anything finite.
    source
        Where it comes from.
    needs
        The fields of the trace besides attention that it reads.
    """

    name: str
    title: str
    follow: Callable[[Trace], jax.Array]
    source: str
    needs: tuple[str, ...] = ()


@functools.cache
def propagations() -> Mapping[str, Propagation]:
    """Return all propagations, name -> propagation.

    Raises
    ------
    InputError
        If two have the same name.
    """
    found: dict[str, Propagation] = {}
    for file in _FILES:
        listed = importlib.import_module(f"jaxflow.edges.{file}").PROPAGATIONS
        for each in listed if isinstance(listed, tuple) else (listed,):
            if each.name in found:
                raise InputError(f"propagations must have different names, {each.name} comes twice")
            found[each.name] = each
    return MappingProxyType(found)


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
    """Follow the input tokens' vectors, and return what each counts for, 0 at padded tokens.

    Parameters
    ----------
    trace
        A forward pass.
    how
        A propagation, or the name of one.

    Returns
    -------
    jax.Array
        ``[..., L, n, n]``: row i of layer l says how much each input token counts for token i
        after layer l. Rows need not sum to 1.

    Raises
    ------
    InputError
        If there is none of that name, or the trace lacks what it needs.
    """
    how = propagation(how) if isinstance(how, str) else how
    require(trace, how.needs, f"the propagation {how.name}")
    return jnp.asarray(mask_tokens(jnp.asarray(how.follow(trace)), trace.mask))
