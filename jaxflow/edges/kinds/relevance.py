r"""Transformer attribution: the relevance of attention times its gradient, with the identity.

With :math:`\nabla A` the gradient of the explained output with respect to the attention, R the
relevance of the same entries by the rules of `jaxflow.models.relevance`, and H heads,

.. math:: E = I + \frac{1}{H} \sum_h \max(0, \nabla A^h \odot R^h)

The method of Chefer, Gur and Wolf (CVPR 2021) is the product of these over layers, which the
aggregator ``paths`` gives, and so does their public code for ViT. That for BERT divides rows by
their sum first, as ``rollout`` does, and then overwrites the entry that ``[CLS]`` has for itself,
which nothing here does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import Trace

__all__ = ["EDGES"]


def _attribution(trace: Trace) -> jax.Array:
    product = jnp.asarray(trace.gradient) * jnp.asarray(trace.relevance)  # [..., L, H, n, n]
    moved = jnp.maximum(product, 0).mean(-3)
    identity = jnp.eye(moved.shape[-1], dtype=moved.dtype)
    return moved + jnp.broadcast_to(identity, moved.shape)


EDGES = EdgeWeight(
    "transformer-attribution",
    "transformer attribution",
    _attribution,
    "Chefer, Gur and Wolf, Transformer Interpretability Beyond Attention Visualization, CVPR 2021",
    needs=("gradient", "relevance"),
    residual=True,
)
