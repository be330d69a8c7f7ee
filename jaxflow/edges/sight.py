"""Which tokens a token can see, told from the attention itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.trace import Trace

__all__ = ["sight"]


def sight(trace: Trace) -> jax.Array:
    """Return which key each query can see, ``[..., n, n]`` boolean.

    A model's mask leaves exactly 0 in all heads of all layers, and a softmax hardly ever does: a
    key is seen where any head of any layer looks. Padded keys are seen by nobody.
    """
    looked = (jnp.asarray(trace.attention) > 0).any((-4, -3))
    if trace.mask is None:
        return looked
    return looked & jnp.asarray(trace.mask)[..., None, :]
