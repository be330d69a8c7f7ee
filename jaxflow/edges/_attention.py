r"""Define edge weights from attention alone: fused heads, one head, residual, discarding, sinks.

``discard-NUMBER`` is `jaxflow.discard`, heads averaged, with half of the weight residual.
``head-NUMBER`` is appendix A.1 of the paper: one head in the top layer, the average of all below;
by rollout it is `jaxflow.head_rollout`, by flow `jaxflow.head_flow`. ``residual-NUMBER`` is
:math:`(1 - r) W + r I`: rollout and flow of ``raw`` take the residual share as an argument, here
it is part of the name, so that several can be compared.

Many models have attention sinks, tokens such as ``[CLS]``, ``[SEP]`` or the first one whose
attention has no effect. With S these tokens, heads averaged, and m a token's attention to S,

* ``no-...`` drops m and divides the row by the rest: m is distributed in proportion;
* ``shared-...`` distributes m evenly over the other tokens that the token attends to.

Rows sum to 1. A row with all its attention on S, or without other tokens to distribute it over, is
one of zeros, which aggregators treat as all residual. Rows of the special tokens themselves are
treated like any others: a class is computed from one of them.

Sinks that are no tokens but learnt scores (gpt-oss) take a share of every head's row. All edge
weights here are those of the attention among tokens, each head's row divided by what they left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._rollout import discard
from jaxflow.attention import fuse_heads
from jaxflow.edges._aggregate import row_normalised
from jaxflow.edges.registry import EdgeFamily, EdgeWeight, parse_share
from jaxflow.edges.trace import Trace, among_tokens, visible_keys
from jaxflow.errors import InputError

_PAPER = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"
_VISION = "Gildenblat, Exploring Explainability for Vision Transformers, 2020"


def _fused(trace: Trace, heads: str = "mean") -> jax.Array:
    return jnp.asarray(fuse_heads(among_tokens(trace.attention, trace.sink), heads))


FUSED = (
    EdgeWeight("raw", "attention", _fused, _PAPER),
    EdgeWeight("max-heads", "attention, largest head", partial(_fused, heads="max"), _VISION),
    EdgeWeight("min-heads", "attention, least head", partial(_fused, heads="min"), _VISION),
)


def _one_head(trace: Trace, head: int) -> jax.Array:
    attention = among_tokens(trace.attention, trace.sink)
    if head >= attention.shape[-3]:
        raise InputError(f"head must be from 0 to {attention.shape[-3] - 1}, got {head}")
    return attention[..., head, :, :]


def _head(number: str) -> EdgeWeight:
    if not number.isascii() or not number.isdigit():
        raise InputError(f"head must be a whole number from 0, as in head-3, got {number!r}")
    return EdgeWeight(
        f"head-{int(number)}",
        f"attention of head {int(number)}",
        partial(_one_head, head=int(number)),
        f"{_PAPER}, appendix A.1",
        below=_fused,
        aggregators=("none", "rollout", "flow"),
    )


HEAD = EdgeFamily("head", "a head from 0", _head, lambda heads: tuple(map(str, range(heads))))


def _with_residual(trace: Trace, share: float) -> jax.Array:
    fused = _fused(trace)
    identity = jnp.broadcast_to(jnp.eye(fused.shape[-1], dtype=fused.dtype), fused.shape)
    return (1 - share) * fused + share * identity


def _discarded(trace: Trace, ratio: float) -> jax.Array:
    return jnp.asarray(discard(among_tokens(trace.attention, trace.sink), ratio, mask=trace.mask))[
        ..., 0, :, :
    ]


def _residual(number: str) -> EdgeWeight:
    share = parse_share("residual", number, whole=True)
    weights = partial(_with_residual, share=share)
    title, source = f"attention with {share:.0%} residual", f"{_PAPER} (0.5 there)"
    return EdgeWeight(f"residual-{number}", title, weights, source, **_ROLLOUT_AND_FLOW)


def _discard(number: str) -> EdgeWeight:
    ratio = parse_share("discard", number, whole=False)
    title, weights = f"attention, lowest {ratio:.0%} dropped", partial(_discarded, ratio=ratio)
    return EdgeWeight(f"discard-{number}", title, weights, _VISION, **_ROLLOUT_AND_FLOW)


_ROLLOUT_AND_FLOW: Any = {"residual": True, "aggregators": ("rollout", "flow")}
RESIDUAL = EdgeFamily("residual", "a share from 0 to 1", _residual, lambda heads: ("0.25", "0.75"))
DISCARD = EdgeFamily(
    "discard", "a share of at least 0 and below 1", _discard, lambda heads: ("0.5", "0.9")
)


def _special(trace: Trace) -> jax.Array:
    return jnp.asarray(trace.special)


def _first(trace: Trace) -> jax.Array:
    *batch, _, _, _, n = trace.attention.shape
    return jnp.broadcast_to(jnp.arange(n) == 0, (*batch, n))


def _dropped(trace: Trace, sink: jax.Array) -> jax.Array:
    return row_normalised(jnp.where(sink, 0, _fused(trace)))


def _shared(trace: Trace, sink: jax.Array) -> jax.Array:
    attention = _fused(trace)
    others = visible_keys(trace) & ~sink  # [..., L, n, n], or 1 layer of all
    count = others.sum(-1, keepdims=True)
    mass = jnp.where(sink, attention, 0).sum(-1, keepdims=True)  # [..., L, n, 1]
    return jnp.where(others, attention + mass / jnp.maximum(count, 1), 0)


def _sink(
    name: str,
    title: str,
    change: Callable[[Trace, jax.Array], jax.Array],
    sinks: Callable[[Trace], jax.Array],
) -> EdgeWeight:
    def weights(trace: Trace) -> jax.Array:
        return change(trace, sinks(trace)[..., None, None, :])

    source = (
        "Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (special tokens); Xiao et al., "
        "Efficient Streaming Language Models with Attention Sinks, ICLR 2024 (first token)"
    )
    needs = ("special",) if sinks is _special else ()
    return EdgeWeight(name, f"attention, {title}", weights, source, needs)


SINKS = (
    _sink("no-special", "special tokens dropped", _dropped, _special),
    _sink("shared-special", "special tokens shared out", _shared, _special),
    _sink("no-first", "first token dropped", _dropped, _first),
    _sink("shared-first", "first token shared out", _shared, _first),
)
