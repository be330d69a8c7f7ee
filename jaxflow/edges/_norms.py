r"""Define edge weights from contributed vectors: norms, ALTI, GlobEnc, effective attention.

Attention of one layer adds to token i's stream :math:`\sum_j F_{ij} + b_O`, with
:math:`F_{ij} = \sum_h \alpha^h_{ij} v^h_j W_O^h`, value vectors with their bias. With
:math:`T_{ij} = g_i(F_{ij} + \delta_{ij} x_i)` the attention block returns

.. math:: y_i = \sum_j T_{ij} + \text{the contribution of biases}

with :math:`g_i` the normalisation after the sum, linearised at its actual deviation, of a
post-LayerNorm block; of a pre-LayerNorm block, where no normalisation follows, it is the identity.
Where a model normalises what attention adds (Gemma), that belongs to the branch: F is then what
token j contributes to the normalised sum, linearised at its actual root mean square. Linearised
RMSNorm subtracts no mean. The functions below define the edge weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, is_traced, mask_tokens
from jaxflow.edges._aggregate import row_normalised
from jaxflow.edges._blocks import add_bias, einsum, feed_forward, linear_norm
from jaxflow.edges.registry import EdgeWeight
from jaxflow.edges.trace import (
    BlockWeights,
    LayerFunction,
    Trace,
    by_layer,
    check_trace,
    visible_keys,
)
from jaxflow.errors import InputError

_NEEDS = ("vectors", "stream", "blocks")


def contributions(attention: jax.Array, vectors: jax.Array, projection: Array) -> jax.Array:
    """Return F ``[..., n, n, D]`` of ``[..., H, n, n]``, ``[..., H, n, d]`` and ``[H, d, D]``."""
    moved = einsum("...hjd,hde->...hje", vectors, jnp.asarray(projection))
    return einsum("...hij,...hje->...ije", attention, moved)


def _branch(
    attention: jax.Array, vectors: jax.Array, block: BlockWeights
) -> tuple[jax.Array, jax.Array]:
    """Return F ``[..., n, n, D]`` of one layer, and what its biases add, ``[..., n, D]``."""
    parts = contributions(attention, vectors, block.projection)
    bias = jnp.broadcast_to(block.projection_bias, parts[..., 0, :].shape)
    norm = block.norm_attention_out
    if norm is None:
        return parts, bias
    whole = parts.sum(-2) + bias
    rest = linear_norm(bias[..., None, :], whole, norm)[..., 0, :]
    return linear_norm(parts, whole, norm), add_bias(rest, norm.bias)


def add_residual(parts: jax.Array, stream: jax.Array) -> jax.Array:
    """Add the residual connection, ``[..., n, D]``, to each token's part of itself."""
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)[..., None]
    return parts + jnp.broadcast_to(own, parts.shape) * stream[..., :, None, :]


def _transformed(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> tuple[jax.Array, jax.Array]:
    """Return T ``[..., n, n, D]`` of one layer and y ``[..., n, D]``, summed from it."""
    parts, bias = _branch(attention, vectors, block)
    parts = add_residual(parts, stream)
    whole = parts.sum(-2) + bias
    if block.norm_first:
        return parts, whole
    norm = block.norm_attention
    parts = linear_norm(parts, whole, norm)
    rest = linear_norm(bias[..., None, :], whole, norm)[..., 0, :]
    return parts, add_bias(parts.sum(-2) + rest, norm.bias)


def reconstruction(trace: Trace) -> jax.Array:
    r"""Return every attention block's output as the sum of its tokens' contributions and biases.

    It equals the model's own hidden states after attention, before the feed-forward layer, up to
    rounding: the identity that the decomposition rests on.

    Parameters
    ----------
    trace
        With ``vectors``, ``stream`` and ``blocks``.

    Returns
    -------
    jax.Array
        ``[..., L, n, D]``.

    Raises
    ------
    InputError
        If the trace lacks one of these.

    Notes
    -----
    With :math:`F_{ij} = \sum_h \alpha^h_{ij} v^h_j W_O^h` and :math:`g_i` the normalisation after
    the sum, linearised at its actual deviation (the identity of a pre-LayerNorm block), it is
    :math:`y_i = \sum_j g_i(F_{ij} + \delta_{ij} x_i)` plus the contribution of biases.
    """
    return by_layer(check_trace(trace, _NEEDS, "the reconstruction"), _output)


def _output(*layer: Any) -> jax.Array:
    return _transformed(*layer)[1]


def _norm(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    r"""Return :math:`\lVert F_{ij} \rVert_2` (Attn-N)."""
    return jnp.linalg.norm(_branch(attention, vectors, block)[0], axis=-1)


def _norm_residual(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    r"""Return :math:`\lVert F_{ij} + \delta_{ij} x_i \rVert_2` (AttnRes-N)."""
    parts, _ = _branch(attention, vectors, block)
    return jnp.linalg.norm(add_residual(parts, stream), axis=-1)


def _norm_residual_layernorm(*layer: Any) -> jax.Array:
    r"""Return :math:`\lVert T_{ij} \rVert_2` (AttnResLn-N)."""
    return jnp.linalg.norm(_transformed(*layer)[0], axis=-1)


def _globenc(
    attention: jax.Array, vectors: jax.Array, stream: jax.Array, block: BlockWeights
) -> jax.Array:
    r"""Return :math:`\lVert g^{(2)}_i(T_{ij}) \rVert_2`, :math:`g^{(2)}` the second normalisation.

    It is linearised at the actual deviation of its input. Of the feed-forward layer only the
    residual connection around it is followed; what the layer adds enters through that deviation
    alone. In a pre-LayerNorm block the stream is not normalised, so that this is `_norm_residual`.

    The authors multiply these as they are, layer by layer: that is the aggregator ``product`` (or
    ``paths``). ``rollout`` makes rows sum to 1 first. Their code also multiplies columns of the
    first layer by the exponential of the additive mask, which is 0 at padding; here padding is
    masked in every layer.
    """
    parts, output = _transformed(attention, vectors, stream, block)
    if not block.norm_first:
        whole = output + feed_forward(block, stream if block.parallel else output)
        parts = linear_norm(parts, whole, block.norm_feed_forward)
    return jnp.linalg.norm(parts, axis=-1)


def _alti_layer(*layer: Any) -> jax.Array:
    parts, output = _transformed(*layer)
    distance = jnp.abs(output[..., :, None, :] - parts).sum(-1)  # [..., n, n]
    return jnp.maximum(jnp.abs(output).sum(-1)[..., None] - distance, 0)


def _alti(trace: Trace) -> jax.Array:
    r"""Return contributions as the reduction in L1 distance, rows made to sum to 1.

    .. math:: c_{ij} = \max(0, \lVert y_i \rVert_1 - \lVert y_i - T_{ij} \rVert_1)

    The paper combines these by rollout. It has the blocks of BERT, normalised after the sum; of
    pre-LayerNorm blocks T is the attention's contribution and the token's own stream, as in the
    authors' code.

    A row without any positive weight is left 0, where the authors' code divides 0 by 0.
    Normalisation is linearised at :math:`\sqrt{\mathrm{var} + \epsilon}`, as the model normalises;
    the authors' code leaves epsilon out of the deviation, and their distances add :math:`10^{-6}`
    to every difference.
    """
    # Padded keys contribute nothing but rounding, which must not enter the sums of rows.
    return row_normalised(jnp.asarray(mask_tokens(by_layer(trace, _alti_layer), trace.mask)))


def _effective(trace: Trace) -> jax.Array:
    r"""Return attention without its components that cannot change the head's output.

    With :math:`T^h = V^h W_O^h`, one row a token, any vector of the left null space of
    :math:`T^h` can be added to attention without changing the head's output. Brunner et al.
    subtract the projection onto it:

    .. math:: E = \frac{1}{H} \sum_h A^h (I - P^h) = \frac{1}{H} \sum_h A^h U^h U^{h\top}

    P the projector onto the left null space, U the left singular vectors of T whose singular values
    are above :math:`\epsilon \max(n, D) \sigma_1` (ε the spacing of floating-point numbers at 1, D
    the stream's width, n the real tokens). Value vectors are taken with their bias. The null space
    has at least n - d dimensions, d the width of a head. Where n ≤ d it has none unless values are
    linearly dependent, and effective attention equals attention: traces with no sentence longer
    than d are refused.

    A causal model's token reads the values of earlier tokens only, so each row has the null space
    of these; no row gives weight to a token that it cannot see. Weights can be negative and rows
    need not sum to 1. Flow and rollout take their positive part.
    """
    _check_lengths(trace)
    seen = visible_keys(trace)
    shape = (*seen.shape[:-3], seen.shape[-1])
    real = jnp.ones(shape, bool) if trace.mask is None else jnp.asarray(trace.mask)
    # One projector serves all rows, unless tokens see different tokens as in a causal model.
    differ = (real[..., None, :, None] & real[..., None, None, :] & ~seen).any()
    layers = trace.attention.shape[-4]
    seen = jnp.broadcast_to(seen, (*seen.shape[:-3], layers, *seen.shape[-2:]))

    def layer(
        attention: jax.Array,
        vectors: jax.Array,
        stream: jax.Array,
        block: BlockWeights,
        seen: jax.Array,
    ) -> jax.Array:
        # T in an orthonormal basis of the head's outputs: r = min(d, D).
        factor = jnp.linalg.qr(jnp.asarray(block.projection).mT, mode="r").mT  # [H, d, r]
        read = einsum("...hjd,hdr->...hjr", vectors, factor)
        width = block.projection.shape[-1]

        def shared() -> jax.Array:
            return _projected(attention, read, real[..., None, :], width)

        def by_row() -> jax.Array:
            def one(row: tuple[jax.Array, jax.Array]) -> jax.Array:
                paid, keys = row  # [..., H, n] and [..., n]
                return _projected(paid[..., None, :], read, keys[..., None, :], width)[..., 0, :]

            rows = (jnp.moveaxis(attention, -2, 0), jnp.moveaxis(seen, -2, 0))
            return jnp.moveaxis(jax.lax.map(one, rows), 0, -2)

        return jax.lax.cond(differ, by_row, shared).mean(-3)

    return by_layer(trace, layer, seen)


def _projected(attention: jax.Array, read: jax.Array, keys: jax.Array, width: int) -> jax.Array:
    """Project rows ``[..., H, m, n]`` onto the column space of the rows of T that are keys."""
    rows = jnp.where(keys[..., None], read, 0)
    basis, values, _ = jnp.linalg.svd(rows, full_matrices=False)  # [..., H, n, k], [..., H, k]
    size = jnp.maximum(keys.sum(-1, keepdims=True), width)
    spacing = jnp.finfo(read.dtype).eps * size.astype(read.dtype)  # [..., 1, 1]
    null = values <= spacing * values.max(-1, keepdims=True)  # not of NaN, which stays
    basis = jnp.where(null[..., None, :], 0, basis)
    highest = jax.lax.Precision.HIGHEST
    inside = jnp.matmul(attention, basis, precision=highest)
    return jnp.where(keys[..., None, :], jnp.matmul(inside, basis.mT, precision=highest), 0)


def _check_lengths(trace: Trace) -> None:
    vectors: Any = trace.vectors
    width, longest = vectors.shape[-1], trace.attention.shape[-1]
    if trace.mask is not None and not is_traced(trace.mask):
        longest = int(np.asarray(trace.mask).sum(-1).max(initial=0))
    if longest <= width:
        raise InputError(
            f"effective attention needs a sentence of more tokens than a head is wide ({width}), "
            f"the longest has {longest}: there it is attention itself, so take the edge weight raw"
        )


def _layered(
    name: str, title: str, layer: LayerFunction, source: str, *, residual: bool = True
) -> EdgeWeight:
    weigh = partial(by_layer, function=layer)
    return EdgeWeight(name, title, weigh, source, _NEEDS, residual=residual)


_KOBAYASHI_2021 = (
    "Kobayashi et al., Incorporating Residual and Normalization Layers into Analysis of Masked "
    "Language Models, EMNLP 2021"
)

NORMS = (
    _layered(
        "norm",
        "norm of value",
        _norm,
        "Kobayashi et al., Attention is Not Only a Weight, EMNLP 2020",
        residual=False,
    ),
    _layered("norm-residual", "norm with residual", _norm_residual, _KOBAYASHI_2021),
    _layered(
        "norm-residual-layernorm",
        "norm with residual and LayerNorm",
        _norm_residual_layernorm,
        _KOBAYASHI_2021,
    ),
)

GLOBENC = _layered(
    "globenc",
    "GlobEnc",
    _globenc,
    "Modarressi et al., GlobEnc: Quantifying Global Token Attribution by Incorporating the Whole "
    "Encoder Layer in Transformers, NAACL 2022",
)

ALTI = EdgeWeight(
    "alti",
    "ALTI",
    _alti,
    "Ferrando, Gállego and Costa-jussà, Measuring the Mixing of Contextual Information in the "
    "Transformer, EMNLP 2022",
    _NEEDS,
    residual=True,
    aggregators=("none", "rollout", "flow"),
)

EFFECTIVE = EdgeWeight(
    "effective",
    "effective attention",
    _effective,
    "Brunner et al., On Identifiability in Transformers, ICLR 2020",
    _NEEDS,
    signed=True,
)
