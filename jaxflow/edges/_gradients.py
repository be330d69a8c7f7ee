r"""Define edge weights from gradients: attention times gradient, and transformer attribution.

With :math:`\nabla A` the gradient of the explained output with respect to the attention of the
same layer, R the relevance of the same entries by the rules of `jaxflow.models.relevance`, and H
heads,

======================= ==============================================================
gradient                :math:`\frac{1}{H} \sum_h \max(0, \nabla A^h \odot A^h)`
gradient-signed         :math:`\frac{1}{H} \sum_h \nabla A^h \odot A^h`
transformer-attribution :math:`I + \frac{1}{H} \sum_h \max(0, \nabla A^h \odot R^h)`
======================= ==============================================================

The first is equation 5 of Chefer, Gur and Wolf (ICCV 2021). Their update of relevances,
:math:`R \leftarrow R + E R` from :math:`R = I`, is the aggregator ``paths``:
:math:`(I + E^{(L)}) \cdots (I + E^{(1)})`. Rows do not sum to 1. To first order, an entry of the
signed one is how much the output would fall without the attention to that token, averaged over
heads.

The last, by ``paths``, is the method of Chefer, Gur and Wolf (CVPR 2021), and so does their public
code for ViT. That for BERT divides rows by their sum first, as ``rollout`` does, and then
overwrites the entry of ``[CLS]`` for itself, which is not done here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.registry import EdgeWeight
from jaxflow.edges.trace import Trace


def _product(trace: Trace, factor: Array | None) -> jax.Array:
    return jnp.asarray(factor) * jnp.asarray(trace.gradient)  # [..., L, H, n, n]


def _gradient(trace: Trace) -> jax.Array:
    return jnp.maximum(_product(trace, trace.attention), 0).mean(-3)


def _signed_gradient(trace: Trace) -> jax.Array:
    return _product(trace, trace.attention).mean(-3)


def _attribution(trace: Trace) -> jax.Array:
    moved = jnp.maximum(_product(trace, trace.relevance), 0).mean(-3)
    identity = jnp.eye(moved.shape[-1], dtype=moved.dtype)
    return moved + jnp.broadcast_to(identity, moved.shape)


_ICCV = (
    "Chefer, Gur and Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and "
    "Encoder-Decoder Transformers, ICCV 2021"
)
_NEEDS = ("gradient",)

GRADIENTS = (
    EdgeWeight("gradient", "attention × gradient", _gradient, _ICCV, _NEEDS),
    EdgeWeight(
        "gradient-signed",
        "attention × gradient, signed",
        _signed_gradient,
        _ICCV,
        _NEEDS,
        signed=True,
    ),
)

ATTRIBUTION = EdgeWeight(
    "transformer-attribution",
    "transformer attribution",
    _attribution,
    "Chefer, Gur and Wolf, Transformer Interpretability Beyond Attention Visualization, CVPR 2021",
    (*_NEEDS, "relevance"),
    residual=True,
)
