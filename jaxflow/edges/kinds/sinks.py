"""Attention without its sinks: what is paid to special tokens, or to the first, is taken away.

Many models park attention where it does nothing, on ``[CLS]``, ``[SEP]`` or the first token. With
S these tokens, heads averaged, and m the attention that a token pays to S,

* ``no-...`` drops m and divides the row by what is left: m is shared out in proportion;
* ``shared-...`` shares m out evenly over the other tokens that the token can see.

Rows sum to 1. A row that has nothing left to divide by (it looks at nothing but S), or nobody to
share with, is one of zeros, which aggregators take for all residual. Rows of the special tokens
themselves are treated like any others: a class is read off one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.edges.aggregate import row_normalised
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.sight import sight
from jaxflow.edges.trace import Trace

__all__ = ["EDGES"]


def _special(trace: Trace) -> jax.Array:
    return jnp.asarray(trace.special)


def _first(trace: Trace) -> jax.Array:
    attention = jnp.asarray(trace.attention)
    shape = (*attention.shape[:-4], attention.shape[-1])
    return jnp.broadcast_to(jnp.arange(attention.shape[-1]) == 0, shape)


def _dropped(trace: Trace, sinks: Callable[[Trace], jax.Array]) -> jax.Array:
    attention = jnp.asarray(trace.attention).mean(-3)  # [..., L, n, n]
    return row_normalised(jnp.where(sinks(trace)[..., None, None, :], 0, attention))


def _shared(trace: Trace, sinks: Callable[[Trace], jax.Array]) -> jax.Array:
    attention = jnp.asarray(trace.attention).mean(-3)
    sink = sinks(trace)[..., None, None, :]
    others = sight(trace)[..., None, :, :] & ~sink  # [..., 1, n, n]
    count = others.sum(-1, keepdims=True)
    mass = jnp.where(sink, attention, 0).sum(-1, keepdims=True)  # [..., L, n, 1]
    return jnp.where(others, attention + mass / jnp.maximum(count, 1), 0)


_SOURCE = (
    "Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (special tokens); Xiao et al., "
    "Efficient Streaming Language Models with Attention Sinks, ICLR 2024 (first token)"
)

EDGES = (
    EdgeWeight(
        "no-special",
        "attention, special tokens dropped",
        partial(_dropped, sinks=_special),
        _SOURCE,
        needs=("special",),
    ),
    EdgeWeight(
        "shared-special",
        "attention, special tokens shared out",
        partial(_shared, sinks=_special),
        _SOURCE,
        needs=("special",),
    ),
    EdgeWeight(
        "no-first", "attention, first token dropped", partial(_dropped, sinks=_first), _SOURCE
    ),
    EdgeWeight(
        "shared-first",
        "attention, first token shared out",
        partial(_shared, sinks=_first),
        _SOURCE,
    ),
)
