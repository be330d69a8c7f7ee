"""Attention itself, its heads fused: the paper's edge weight, and two others of vision tools."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxflow.attention import fuse_heads
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import Trace

__all__ = ["EDGES"]


def _fused(trace: Trace, heads: str) -> jax.Array:
    return jnp.asarray(fuse_heads(jnp.asarray(trace.attention), heads))


_PAPER = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"
_VISION = "Gildenblat, Exploring Explainability for Vision Transformers, 2020"

EDGES = (
    EdgeWeight("raw", "attention", partial(_fused, heads="mean"), _PAPER),
    EdgeWeight("max-heads", "attention, largest head", partial(_fused, heads="max"), _VISION),
    EdgeWeight("min-heads", "attention, least head", partial(_fused, heads="min"), _VISION),
)
