r"""Define value zeroing: the change of a token's output direction when a value vector is zeroed.

With :math:`y_i` the whole block's output for token i, feed-forward layer and normalisations
included, and :math:`y_i^{\neg j}` its output when all heads read a value of 0 from token j, the
attention unchanged,

.. math:: C_{ij} = 1 - \cos(y_i, y_i^{\neg j}), \qquad E_{ij} = C_{ij} / \textstyle\sum_k C_{ik}

The value vector is zeroed with its bias. The residual connection is in the block that is run, so
rollout multiplies these weights as they are. A row is one of zeros where no token's value changes
the direction of the output.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges._aggregate import row_normalised
from jaxflow.edges._blocks import block_output, einsum
from jaxflow.edges.registry import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Trace, by_layer


def _zeroing(trace: Trace) -> jax.Array:
    return row_normalised(by_layer(trace, _distances))


def _distances(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    """Return C of one layer, ``[..., n, n]``; one token's outputs are in memory at a time."""
    moved = einsum("...hjd,hde->...hje", vectors, block.projection)
    added = einsum("...hij,...hje->...ie", attention, moved)
    original = _unit(block_output(stream, added, block))

    def zero(key: tuple[jax.Array, jax.Array]) -> jax.Array:
        paid, value = key  # [..., H, n] and [..., H, D]
        contribution = einsum("...hi,...he->...ie", paid, value)
        altered = _unit(block_output(stream, added - contribution, block))
        # Half the squared distance of unit vectors is 1 - cos without its cancellation. A key
        # without attention changes nothing, whatever rounding leaves.
        distance = jnp.square(original - altered).sum(-1) / 2  # [..., n]
        return jnp.where((paid != 0).any(-2), distance, 0)

    keys = (jnp.moveaxis(attention, -1, 0), jnp.moveaxis(moved, -2, 0))
    return jnp.moveaxis(jax.lax.map(zero, keys), 0, -1)


def _unit(values: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(values, axis=-1, keepdims=True)
    return values / jnp.where(length == 0, 1, length)


ZEROING = EdgeWeight(
    "value-zeroing",
    "value zeroing",
    _zeroing,
    "Mohebbi et al., Quantifying Context Mixing in Transformers, EACL 2023",
    ("vectors", "stream", "blocks"),
    residual=True,
    aggregators=("none", "rollout", "flow"),
)
