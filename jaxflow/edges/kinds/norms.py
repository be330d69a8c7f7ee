r"""The norm of what a token brings, in place of the attention it is paid.

:math:`E_{ij} = \lVert T_{ij} \rVert_2`; with the residual connection
:math:`\lVert T_{ij} + \delta_{ij} x_i \rVert_2`, and where a normalisation follows, of these
vectors normalised, linearised at the actual mean and deviation. Value vectors with their bias,
without that of the output projection.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.contributions import brought, by_layer, linear_norm, with_own
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["EDGES"]


def _norms(trace: Trace) -> jax.Array:
    def layer(
        attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
    ) -> jax.Array:
        return jnp.linalg.norm(brought(attention, vectors, jnp.asarray(block.projection)), axis=-1)

    return by_layer(trace, layer)


def _norms_with_residual(trace: Trace) -> jax.Array:
    def layer(
        attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
    ) -> jax.Array:
        parts = with_own(brought(attention, vectors, jnp.asarray(block.projection)), stream)
        if not block.norm_first:
            whole = parts.sum(-2) + jnp.broadcast_to(block.projection_bias, stream.shape)
            norm = block.norm_attention
            parts = linear_norm(parts, whole, jnp.asarray(norm.scale), norm.epsilon)
        return jnp.linalg.norm(parts, axis=-1)

    return by_layer(trace, layer)


_SOURCE = "Kobayashi et al., Attention is Not Only a Weight, EMNLP 2020"
_SOURCE_RESIDUAL = (
    "Kobayashi et al., Incorporating Residual and Normalization Layers into Analysis of Masked "
    "Language Models, EMNLP 2021"
)

EDGES = (
    EdgeWeight("norm", "norm of value", _norms, _SOURCE, needs=("vectors", "stream", "blocks")),
    EdgeWeight(
        "norm-residual",
        "norm with residual",
        _norms_with_residual,
        _SOURCE_RESIDUAL,
        needs=("vectors", "stream", "blocks"),
        residual=True,
    ),
)
