r"""Attention times its gradient: what attention is paid where it moves the output.

With :math:`\nabla A` the gradient of the explained output with respect to the attention of the
same layer, and H heads,

.. math:: E_{ij} = \frac{1}{H} \sum_h \max(0, \nabla A^h_{ij} A^h_{ij})

which is equation 5 of Chefer, Gur and Wolf (ICCV 2021). Their update of relevances,
:math:`R \leftarrow R + E R` from :math:`R = I`, is the aggregator ``paths``:
:math:`(I + E^{(L)}) \cdots (I + E^{(1)})`. Rows do not sum to 1: an edge weighs what it moves.

The signed kind leaves out the maximum. To first order its entries say how much the output would
fall if the head did not look at that token at all, averaged over heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import Trace

__all__ = ["EDGES"]


def _product(trace: Trace) -> jax.Array:
    return jnp.asarray(trace.attention) * jnp.asarray(trace.gradient)  # [..., L, H, n, n]


def _gradient(trace: Trace) -> jax.Array:
    return jnp.maximum(_product(trace), 0).mean(-3)


def _signed_gradient(trace: Trace) -> jax.Array:
    return _product(trace).mean(-3)


_SOURCE = (
    "Chefer, Gur and Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and "
    "Encoder-Decoder Transformers, ICCV 2021"
)

EDGES = (
    EdgeWeight("gradient", "attention × gradient", _gradient, _SOURCE, needs=("gradient",)),
    EdgeWeight(
        "gradient-signed",
        "attention × gradient, signed",
        _signed_gradient,
        _SOURCE,
        needs=("gradient",),
        signed=True,
    ),
)
