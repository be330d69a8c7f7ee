"""Attention without its lowest entries: `jaxflow.discard`, heads averaged, half of it residual."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxflow._rollout import discard
from jaxflow.edges.kind import EdgeFamily, EdgeWeight
from jaxflow.edges.numbers import share_of
from jaxflow.edges.trace import Trace

__all__ = ["FAMILY"]


def _discarded(trace: Trace, ratio: float) -> jax.Array:
    return jnp.asarray(discard(trace.attention, ratio, mask=trace.mask))[..., 0, :, :]


def _make(number: str) -> EdgeWeight:
    ratio = share_of("discard", number, whole=False)
    return EdgeWeight(
        f"discard-{number}",
        f"attention, lowest {ratio:.0%} dropped",
        partial(_discarded, ratio=ratio),
        "Gildenblat, Exploring Explainability for Vision Transformers, 2020",
        residual=True,
        told_by=("rollout", "flow"),
    )


FAMILY = EdgeFamily(
    "discard", "a share of at least 0 and below 1", _make, lambda heads: ("0.5", "0.9")
)
