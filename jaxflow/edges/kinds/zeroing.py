r"""Value zeroing: how far a token's output turns when another token's value vector is zeroed.

With :math:`y_i` what the whole block returns for token i, feed-forward layer and normalisations
included, and :math:`y_i^{\neg j}` what it returns when all heads read a value of 0 from token j,
the attention staying as it is,

.. math:: C_{ij} = 1 - \cos(y_i, y_i^{\neg j}), \qquad E_{ij} = C_{ij} / \textstyle\sum_k C_{ik}

The value vector is zeroed with its bias. The residual connection is in the block that is run, so
rollout multiplies these weights as they are. A row is one of zeros where no token's value changes
the direction of the output.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.aggregate import row_normalised
from jaxflow.edges.block_output import block_output
from jaxflow.edges.contributions import by_layer
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Trace

__all__ = ["EDGES"]


def _zeroing(trace: Trace) -> jax.Array:
    return row_normalised(by_layer(trace, _distances))


def _distances(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    """Return C of one layer, ``[..., n, n]``; one token's outputs are held at a time."""
    highest = jax.lax.Precision.HIGHEST
    moved = jnp.einsum("...hjd,hde->...hje", vectors, block.projection, precision=highest)
    added = jnp.einsum("...hij,...hje->...ie", attention, moved, precision=highest)
    original = _unit(block_output(stream, added, block))

    def zero(key: tuple[jax.Array, jax.Array]) -> jax.Array:
        paid, value = key  # [..., H, n] and [..., H, D]
        brought = jnp.einsum("...hi,...he->...ie", paid, value, precision=highest)
        altered = _unit(block_output(stream, added - brought, block))
        # Half the squared distance of unit vectors is 1 - cos without its cancellation. What
        # nobody looks at changes nothing; rounding shall not say otherwise.
        distance = jnp.square(original - altered).sum(-1) / 2  # [..., n]
        return jnp.where((paid != 0).any(-2), distance, 0)

    keys = (jnp.moveaxis(attention, -1, 0), jnp.moveaxis(moved, -2, 0))
    return jnp.moveaxis(jax.lax.map(zero, keys), 0, -1)


def _unit(values: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(values, axis=-1, keepdims=True)
    return values / jnp.where(length > 0, length, 1)


EDGES = EdgeWeight(
    "value-zeroing",
    "value zeroing",
    _zeroing,
    "Mohebbi et al., Quantifying Context Mixing in Transformers, EACL 2023",
    needs=("vectors", "stream", "blocks"),
    residual=True,
    told_by=("none", "rollout", "flow"),
)
