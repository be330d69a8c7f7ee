"""One head alone, the layers below it averaged over all: appendix A.1 of the paper.

By rollout it is `jaxflow.head_rollout`, by flow `jaxflow.head_flow`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.attention import fuse_heads
from jaxflow.edges.kind import EdgeFamily, EdgeWeight
from jaxflow.edges.trace import Trace
from jaxflow.errors import InputError

__all__ = ["FAMILY"]


def _one(trace: Trace, head: int) -> jax.Array:
    attention = jnp.asarray(trace.attention)
    if head >= attention.shape[-3]:
        raise InputError(f"head must be from 0 to {attention.shape[-3] - 1}, got {head}")
    return attention[..., head, :, :]


def _mean(trace: Trace) -> jax.Array:
    return jnp.asarray(fuse_heads(jnp.asarray(trace.attention), "mean"))


def _make(number: str) -> EdgeWeight:
    if not number.isascii() or not number.isdigit():
        raise InputError(f"head must be a whole number from 0, as in head-3, got {number!r}")
    return EdgeWeight(
        f"head-{int(number)}",
        f"attention of head {int(number)}",
        partial(_one, head=int(number)),
        "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, appendix A.1",
        below=_mean,
        told_by=("none", "rollout", "flow"),
    )


def _shown(heads: int) -> tuple[str, ...]:
    return tuple(str(head) for head in range(heads))


FAMILY = EdgeFamily("head", "a head from 0", _make, _shown)
