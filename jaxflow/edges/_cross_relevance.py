r"""Compute relevance through an encoder and a decoder from attention and its gradients.

With H heads, A attention of a layer, s the target tokens and q the source tokens [1]_:

.. math:: \bar A &= \tfrac{1}{H} \sum_h \max(0, \nabla A^h \odot A^h) && (5)\\
          R^{qq} &\leftarrow R^{qq} + \bar A R^{qq} && \text{each encoder layer } (6)\\
          R^{ss} &\leftarrow R^{ss} + \bar A R^{ss}, \quad
          R^{sq} \leftarrow R^{sq} + \bar A R^{sq} && \text{self-attention of a block } (6, 7)\\
          \bar R_{ij} &= (R - I)_{ij} \Big/ \sum_k (R - I)_{ik} + I_{ij} && (8, 9)\\
          R^{sq} &\leftarrow R^{sq} + (\bar R^{ss})^T \bar A \bar R^{qq}
          && \text{then its cross-attention } (10)

from :math:`R^{ss} = I`, :math:`R^{qq} = I`, :math:`R^{sq} = 0`. Equation 11, the change of
:math:`R^{ss}` by cross-attention, adds :math:`\bar A R^{qs}`, which is 0: an encoder does not
attend to the decoder.

Where equations and the authors' program differ, this follows the equations:

* A row of R - I that is all zero cannot be normalised: 0 / 0. Here it stays zero, so that its row
  of :math:`\bar R` is that of I. The program divides, and sets NaN in the sum of equation 10 to 0:
  the matrix products have spread it by then, so that one token without relevance, such as a padded
  one or one after the explained position, removes all that the layer adds.
* Its generator for encoder and decoder uses a layer-wise relevance in place of A by default
  (``use_lrp``); the method of the paper multiplies attention itself.
* It takes one example. Here examples of a batch are independent, and padding has no relevance.

The transpose in equation 10 is in both: target token i gets the relevance of source tokens for the
tokens k that attend to *it*. Under a causal mask these are k = i and later.

References
----------
.. [1] Chefer, Gur and Wolf, *Generic Attention-model Explainability for Interpreting Bi-Modal and
   Encoder-Decoder Transformers*, ICCV 2021, section 3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.attention import Indices, in_own_precision, resolve_tokens, take_rows
from jaxflow.edges._aggregate import identity_like, row_normalised
from jaxflow.edges.cross import cross_edges
from jaxflow.edges.cross_trace import CrossTrace, check_cross


def cross_relevance(trace: CrossTrace, *, sources: Indices = None) -> Any:
    """Return the relevance of source tokens and decoder input for each target token.

    Parameters
    ----------
    trace
        Attention of the three kinds and the gradient of the explained output with respect to each.
    sources
        Decoder tokens whose rows to return: an int, a sequence, or None for all. An output is
        explained by the row of the token that it was computed from. With `target_mask`, negative
        ones count from each text's own end.

    Returns
    -------
    array
        ``[..., Ld, S, m + n]``, not negative, rows not normalised: in the first m columns
        :math:`R^{sq}`, in the others :math:`R^{ss}`, after each decoder layer; the last is the
        paper's. Padded rows and columns are 0. In the input's precision, JAX for JAX, else NumPy.

    Raises
    ------
    InputError
        If attention or a gradient of a kind is missing, or its shape or values are not usable.

    Notes
    -----
    The rules are in the module's docstring.
    """
    parts = check_cross(trace, "gradient", "relevance through encoder and decoder")
    rows = resolve_tokens("sources", sources, parts[2].shape[-2], parts[4])
    return in_own_precision(lambda *given: take_rows(_relevance(given), rows), *parts)


@jax.jit
def _relevance(parts: tuple[Any, ...]) -> jax.Array:
    encoder, decoder, cross = cross_edges(parts)
    source, target = parts[3:5]
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    # R - I is carried, not R: gradients may be so small that they are lost beside a 1.
    def attend(above: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        return above + layer + product(layer, above), None

    layers = jnp.moveaxis(encoder, -3, 0)
    of_source, _ = jax.lax.scan(attend, jnp.zeros_like(layers[0]), layers)
    of_source = row_normalised(of_source) + _identity(of_source, source)

    def block(
        below: tuple[jax.Array, jax.Array], layer: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        (to_source, to_target), (own, down) = below, layer
        to_source = to_source + product(own, to_source)
        to_target, _ = attend(to_target, own)
        shares = row_normalised(to_target) + _identity(to_target, target)
        found = product(down, of_source)
        to_source = to_source + product(jnp.swapaxes(shares, -1, -2), found)
        return (to_source, to_target), (to_source, to_target)

    blocks = jnp.moveaxis(decoder, -3, 0), jnp.moveaxis(cross, -3, 0)
    start = jnp.zeros_like(blocks[1][0]), jnp.zeros_like(blocks[0][0])
    _, (to_source, to_target) = jax.lax.scan(block, start, blocks)
    to_target = to_target + jnp.broadcast_to(_identity(to_target[0], target), to_target.shape)
    return jnp.moveaxis(jnp.concatenate([to_source, to_target], -1), 0, -3)


def _identity(like: jax.Array, mask: Any) -> jax.Array:
    """Return the identity over real tokens, of the shape ``[..., n, n]`` of `like`."""
    identity = identity_like(like)
    return identity if mask is None else jnp.where(jnp.asarray(mask)[..., None, :], identity, 0)
