"""What an edge weight is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxflow.edges.trace import Trace

__all__ = ["EdgeWeight"]


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
    """

    name: str
    title: str
    weigh: Callable[[Trace], jax.Array]
    source: str
    needs: tuple[str, ...] = ()
    residual: bool = False
    signed: bool = False
