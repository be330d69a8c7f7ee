"""What an edge weight is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxflow.edges.trace import Trace

__all__ = ["EdgeFamily", "EdgeWeight"]


@dataclasses.dataclass(frozen=True)
class EdgeWeight:
    """One answer to what the edges between two layers hold.

    A file in ``jaxflow/edges/kinds/`` that has one (or a tuple of them) as ``EDGES`` is all that a
    new edge weight takes: command line, leaderboard and documentation list what lies there.

    Attributes
    ----------
    name
        What it is asked for by, lower case with hyphens.
    title
        How tables call it.
    weigh
        From a `Trace` to ``[..., L, n, n]``, rows queries; a pure JAX function. Rows need not sum
        to 1. Padded queries and keys may hold anything finite: they are masked afterwards.
    source
        Where it comes from.
    needs
        The fields of the trace besides attention that it reads.
    residual
        Whether the residual connection is in the weights already; aggregators add it otherwise.
    signed
        Whether weights may be negative. Flow and row sums take their positive part.
    below
        What a layer holds when others are above it, where that differs from what it holds when it
        is looked at itself: of a single head, the average of all.
    told_by
        The aggregators that say something of their own of it, for tables that list them: where
        rows sum to 1 with the residual connection in them, sums of paths are rollout once more.
        None is all. `aggregate` takes any.
    """

    name: str
    title: str
    weigh: Callable[[Trace], jax.Array]
    source: str
    needs: tuple[str, ...] = ()
    residual: bool = False
    signed: bool = False
    below: Callable[[Trace], jax.Array] | None = None
    told_by: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class EdgeFamily:
    """Edge weights that differ by a number, asked for as ``PREFIX-NUMBER``.

    A file in ``jaxflow/edges/kinds/`` may have one as ``FAMILY``.

    Attributes
    ----------
    prefix
        What their names begin with.
    number
        What the number is, in the words of an error.
    make
        From the number, as it was written, to the edge weight; `InputError` for one that cannot be.
    shown
        From the number of heads to the numbers that catalogue and leaderboard list.
    """

    prefix: str
    number: str
    make: Callable[[str], EdgeWeight]
    shown: Callable[[int], tuple[str, ...]]
