r"""The norm of what a token brings, in place of the attention it is paid: three of Kobayashi's.

With :math:`F_{ij} = \sum_h \alpha^h_{ij} v^h_j W_O^h`, value vectors with their bias, without that
of the output projection,

=========================== ===================================================================
``norm``                    :math:`\lVert F_{ij} \rVert_2` (2020; Attn-N in 2021)
``norm-residual``           :math:`\lVert F_{ij} + \delta_{ij} x_i \rVert_2` (AttnRes-N)
``norm-residual-layernorm`` :math:`\lVert g_i(F_{ij} + \delta_{ij} x_i) \rVert_2` (AttnResLn-N)
=========================== ===================================================================

and :math:`g_i(v) = (v - \bar v) / s_i \odot \gamma` the normalisation that follows, linearised at
the deviation :math:`s_i` of what it normalises in truth, the bias of the output projection
included. No normalisation follows in a pre-LayerNorm block, so that the third is the second there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.contributions import brought, by_layer, transformed, with_own
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["EDGES"]


def _norm(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    return jnp.linalg.norm(brought(attention, vectors, jnp.asarray(block.projection)), axis=-1)


def _norm_residual(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    parts = brought(attention, vectors, jnp.asarray(block.projection))
    return jnp.linalg.norm(with_own(parts, stream), axis=-1)


def _norm_residual_layernorm(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    return jnp.linalg.norm(transformed(attention, vectors, stream, block)[0], axis=-1)


def _norms(trace: Trace) -> jax.Array:
    return by_layer(trace, _norm)


def _norms_residual(trace: Trace) -> jax.Array:
    return by_layer(trace, _norm_residual)


def _norms_residual_layernorm(trace: Trace) -> jax.Array:
    return by_layer(trace, _norm_residual_layernorm)


_SOURCE = "Kobayashi et al., Attention is Not Only a Weight, EMNLP 2020"
_SOURCE_RESIDUAL = (
    "Kobayashi et al., Incorporating Residual and Normalization Layers into Analysis of Masked "
    "Language Models, EMNLP 2021"
)
_NEEDS = ("vectors", "stream", "blocks")

EDGES = (
    EdgeWeight("norm", "norm of value", _norms, _SOURCE, needs=_NEEDS),
    EdgeWeight(
        "norm-residual",
        "norm with residual",
        _norms_residual,
        _SOURCE_RESIDUAL,
        needs=_NEEDS,
        residual=True,
    ),
    EdgeWeight(
        "norm-residual-layernorm",
        "norm with residual and LayerNorm",
        _norms_residual_layernorm,
        _SOURCE_RESIDUAL,
        needs=_NEEDS,
        residual=True,
    ),
)
