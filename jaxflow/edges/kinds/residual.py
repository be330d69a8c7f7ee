r"""Attention with any share of the residual connection: :math:`(1 - r) W + r I`, heads averaged.

Rollout and flow of ``raw`` take the share that they are asked for, one half where nothing is said;
here the share is part of the name, so that several stand side by side.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.attention import fuse_heads
from jaxflow.edges.kind import EdgeFamily, EdgeWeight
from jaxflow.edges.numbers import share_of
from jaxflow.edges.trace import Trace

__all__ = ["FAMILY"]


def _with_residual(trace: Trace, share: float) -> jax.Array:
    fused = jnp.asarray(fuse_heads(jnp.asarray(trace.attention), "mean"))
    identity = jnp.broadcast_to(jnp.eye(fused.shape[-1], dtype=fused.dtype), fused.shape)
    return (1 - share) * fused + share * identity


def _make(number: str) -> EdgeWeight:
    share = share_of("residual", number, whole=True)
    return EdgeWeight(
        f"residual-{number}",
        f"attention with {share:.0%} residual",
        partial(_with_residual, share=share),
        "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (0.5 there)",
        residual=True,
        told_by=("rollout", "flow"),
    )


FAMILY = EdgeFamily("residual", "a share from 0 to 1", _make, lambda heads: ("0.25", "0.75"))
