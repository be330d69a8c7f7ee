r"""GlobEnc: norms of what a token brings to a whole encoder block's output.

:math:`E_{ij} = \lVert g^{(2)}_i(T_{ij}) \rVert_2` with :math:`T_{ij}` what token j brings to the
attention block's output, first residual connection and first normalisation included
(`jaxflow.edges.contributions`), and :math:`g^{(2)}_i` the second normalisation, linearised at the
actual deviation of what it normalises. Of the feed-forward layer only the residual connection
around it is followed; what the layer adds enters through that deviation alone.

A pre-LayerNorm block normalises nothing that goes on in its stream: there the same steps leave
:math:`\lVert F_{ij} + \delta_{ij} x_i \rVert_2`, the norm with residual of
`jaxflow.edges.kinds.norms`.

The authors multiply these as they are, layer by layer: that is the aggregator ``product`` (or
``paths``). ``rollout`` makes rows sum to 1 first. Their code also multiplies columns of the first
layer by the exponential of the additive mask, which is 0 at padding; here padding is masked in
every layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.contributions import by_layer, linear_norm, transformed
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.linearised import feed_forward
from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["EDGES"]


def _layer(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    parts, output = transformed(attention, vectors, stream, block)
    if not block.norm_first:
        whole = output + feed_forward(block, output)
        norm = block.norm_feed_forward
        parts = linear_norm(parts, whole, jnp.asarray(norm.scale), norm.epsilon)
    return jnp.linalg.norm(parts, axis=-1)


def _globenc(trace: Trace) -> jax.Array:
    return by_layer(trace, _layer)


EDGES = EdgeWeight(
    "globenc",
    "GlobEnc",
    _globenc,
    "Modarressi et al., GlobEnc: Quantifying Global Token Attribution by Incorporating the Whole "
    "Encoder Layer in Transformers, NAACL 2022",
    needs=("vectors", "stream", "blocks"),
    residual=True,
)
