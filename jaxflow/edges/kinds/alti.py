r"""ALTI: how much closer to the attention block's output a token's own vector comes than nothing.

With :math:`T_{ij}` what token j brings to the output :math:`y_i`, residual connection and
normalisation included (`jaxflow.edges.contributions`),

.. math:: c_{ij} = \max(0, \lVert y_i \rVert_1 - \lVert y_i - T_{ij} \rVert_1)

and the rows of c are made to sum to 1. The paper follows these by rollout. It has the blocks of
BERT, normalised after the sum; of pre-LayerNorm blocks, where values are made from the normalised
stream and no normalisation comes after, T is what attention brings and the token's own stream, as
in the authors' code.

A row without any positive weight is left 0, where the authors' code divides 0 by 0. Normalisation
is linearised at :math:`\sqrt{\mathrm{var} + \epsilon}`, as the model normalises; the authors' code
leaves epsilon out of the deviation, and their distances add :math:`10^{-6}` to every difference.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.attention import mask_tokens
from jaxflow.edges.aggregate import row_normalised
from jaxflow.edges.contributions import by_layer, transformed
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["EDGES"]


def _layer(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    parts, output = transformed(attention, vectors, stream, block)
    distance = jnp.abs(output[..., :, None, :] - parts).sum(-1)  # [..., n, n]
    return jnp.maximum(jnp.abs(output).sum(-1)[..., None] - distance, 0)


def _alti(trace: Trace) -> jax.Array:
    # Keys that are padding bring nothing but rounding, which must not enter the sums of rows.
    return row_normalised(jnp.asarray(mask_tokens(by_layer(trace, _layer), trace.mask)))


EDGES = EdgeWeight(
    "alti",
    "ALTI",
    _alti,
    "Ferrando, Gállego and Costa-jussà, Measuring the Mixing of Contextual Information in the "
    "Transformer, EMNLP 2022",
    needs=("vectors", "stream", "blocks"),
    residual=True,
    told_by=("none", "rollout", "flow"),
)
