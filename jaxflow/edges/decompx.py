r"""Compute DecompX (Modarressi et al. 2023): hidden states and logits as sums over input tokens.

Input token k enters as its own vector, embedding with position, and every operation of a block is
applied to the parts :math:`x_{i \Leftarrow k}` of token i's vector instead of to their sum:
attention is linear once its weights are known; normalisation is linearised at its actual
deviation; the activation is the line through the origin and its value, :math:`f(x) / x`; and a
bias b is distributed in proportion to :math:`|\langle v_k, b \rangle|`, v the parts that it is
added to. So the parts sum to the true hidden state after every layer (`reconstruction`). A token's
contribution is the norm of its part.

The paper has the blocks of BERT, and distributes the bias of attention, with that of value vectors
in it, by the contributions of attention alone (its equations 4 to 6). The authors' code distributes
it after the residual connection has been added, and in the first layer multiplies the value
vectors' bias by the attention weights: ``bias="published"`` does as the code does, ``bias="paper"``
is what the registered propagation does. Of pre-LayerNorm blocks the parts of the stream are
followed, and normalised where a branch reads them. A bias orthogonal to all parts goes to the token
itself; the code drops it.

Decoders have more operations, and the paper no rule for them. RMSNorm is linearised at its actual
root mean square, also that of what a branch adds. The product of a gated feed-forward layer,
:math:`f(g) u`, is linear in each factor: each brings its parts, the other factor being known, and
half of the product, as the uniform rule of Achtibat et al. (AttnLRP, ICML 2024) has it. A sink
takes attention and brings no vector. For a mixture of experts there is no rule, and it is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges._blocks import (
    add_bias,
    affine,
    distribute_bias,
    einsum,
    halves,
    layer_norm,
    linear_norm,
    slope,
)
from jaxflow.edges._norms import add_residual
from jaxflow.edges.registry import Propagation
from jaxflow.edges.trace import BlockWeights, Norm, Trace, check_trace
from jaxflow.errors import InputError

Bias = Literal["paper", "published"]


def decompose(
    trace: Trace, read: Callable[[jax.Array], jax.Array], bias: Bias = "paper"
) -> tuple[jax.Array, jax.Array]:
    """Decompose all hidden states, one layer after another.

    `read` maps the parts after a layer, ``[..., n, n, D]`` (token, input token), to what is kept of
    them; a module's function is compiled once, every new closure again. Returns the results of
    `read`, the layer axis before their last two, and the last layer's parts.
    """
    if bias not in get_args(Bias):
        raise InputError(f"bias must be one of {', '.join(get_args(Bias))}, got {bias!r}")
    trace = check_trace(trace, ("stream", "blocks"), "DecompX")
    blocks: Any = trace.blocks
    if blocks.value is None or blocks.value_bias is None:
        raise InputError(
            "DecompX needs the parameters of value vectors, which this trace lacks: trace the "
            "model with jaxflow.models.trace, or give its blocks a value and a value_bias"
        )
    if blocks.router is not None:
        raise InputError(
            "DecompX has no rule for a mixture of experts, which this model has: choose an edge "
            "weight such as norm, alti or value-zeroing"
        )
    if bias == "published" and blocks.norm_attention_out is not None:
        raise InputError(
            "bias must be paper for a model that normalises what attention adds, got 'published'"
        )
    layers, heads, size, width = jnp.shape(blocks.projection)
    wanted = {"value": (layers, width, heads, size), "value_bias": (layers, heads, size)}
    for name, shape in wanted.items():
        if (given := jnp.shape(getattr(blocks, name))) != shape:
            raise InputError(f"{name} must have the shape {shape}, got {given}")
    return _decompose(jnp.asarray(trace.attention), jnp.asarray(trace.stream), blocks, read, bias)


@partial(jax.jit, static_argnames=("read", "bias"))
def _decompose(
    attention: jax.Array,
    stream: jax.Array,
    blocks: BlockWeights,
    read: Callable[[jax.Array], jax.Array],
    bias: Bias,
) -> tuple[jax.Array, jax.Array]:
    attention = jnp.moveaxis(attention, -4, 0)
    stream = jnp.moveaxis(stream, -3, 0)
    nothing = jnp.zeros_like(jnp.expand_dims(stream[0], -2) + jnp.expand_dims(stream[0], -3))
    parts = add_residual(nothing, stream[0])  # [..., n, n, D]
    # Whether the value vectors' bias is multiplied by the attention weights.
    weighted = (jnp.arange(len(attention)) == 0) & (bias == "published")

    def step(parts: jax.Array, layer: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        parts = _block(parts, *layer, bias=bias)
        return parts, read(parts)

    last, kept = jax.lax.scan(step, parts, (attention, stream[:-1], blocks, weighted))
    return jnp.moveaxis(kept, 0, -3), last


def norms(trace: Trace, bias: Bias = "paper") -> jax.Array:
    """Return the norm of each input token's part of each token, ``[..., L, n, n]``."""
    return decompose(trace, _norms, bias)[0]


def reconstruction(trace: Trace, bias: Bias = "paper") -> jax.Array:
    """Return the sums of all parts, ``[..., L, n, D]``: the trace's stream after each layer."""
    return decompose(trace, _sums, bias)[0]


def _norms(parts: jax.Array) -> jax.Array:
    return jnp.linalg.norm(parts, axis=-1)


def _sums(parts: jax.Array) -> jax.Array:
    return parts.sum(-2)


def _nothing(parts: jax.Array) -> jax.Array:
    return parts[..., :0]


def _block(
    parts: jax.Array,
    attention: jax.Array,
    stream: jax.Array,
    block: BlockWeights,
    weighted: jax.Array,
    *,
    bias: Bias,
) -> jax.Array:
    """Return the parts ``[..., n, n, D]`` after one block of those before it.

    The model's own values, at which everything is linearised, are computed beside them.
    """
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)
    first, last = block.norm_first, not block.norm_first
    read, seen = before = parts, stream
    if first:
        read, seen = _normalised(parts, stream, block.norm_attention, own)
    parts, stream = _attend(parts, stream, read, seen, attention, block, weighted, bias)
    if last:
        parts, stream = _normalised(parts, stream, block.norm_attention, own)

    read, seen = before if block.parallel else (parts, stream)
    if first:
        read, seen = _normalised(read, seen, block.norm_feed_forward, own)
    written, added = _feed_forward(read, seen, block)
    written, added = _normalised(written, added, block.norm_feed_forward_out, own)
    parts, stream = parts + written, stream + added
    return _normalised(parts, stream, block.norm_feed_forward, own)[0] if last else parts


def _feed_forward(
    read: jax.Array, seen: jax.Array, block: BlockWeights
) -> tuple[jax.Array, jax.Array]:
    """Return the parts of what the feed-forward layer adds, and their sum."""
    own = jnp.eye(read.shape[-2], dtype=read.dtype)
    expanded = affine(seen, block.up, block.up_bias)  # [..., n, F], or 2 F
    hidden = einsum("...ikd,df->...ikf", read, jnp.asarray(block.up))
    if block.gated:
        (gate, linear), biases = halves(expanded), halves(block.up_bias)
        of_gate, of_linear = (
            distribute_bias(each, bias, own)
            for each, bias in zip(halves(hidden), biases, strict=True)
        )
        line = slope(block.activation, gate)
        inner = line * gate * linear
        hidden = of_gate * linear[..., None, :] + of_linear * gate[..., None, :]
        hidden = hidden * line[..., None, :] / 2
    else:
        line = slope(block.activation, expanded)
        inner = line * expanded
        hidden = distribute_bias(hidden, block.up_bias, own) * line[..., None, :]
    written = einsum("...ikf,fd->...ikd", hidden, jnp.asarray(block.down))
    added = affine(inner, block.down, block.down_bias)
    return distribute_bias(written, block.down_bias, own), added


def _normalised(
    parts: jax.Array, whole: jax.Array, norm: Norm | None, otherwise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Normalise a vector and its parts; None leaves them as they are."""
    if norm is None:
        return parts, whole
    linear = linear_norm(parts, whole, norm)
    if norm.bias is not None:
        linear = distribute_bias(linear, norm.bias, otherwise)
    return linear, layer_norm(whole, norm)


def _attend(
    parts: jax.Array,
    stream: jax.Array,
    read: jax.Array,
    seen: jax.Array,
    attention: jax.Array,
    block: BlockWeights,
    weighted: jax.Array,
    bias: Bias,
) -> tuple[jax.Array, jax.Array]:
    """Add the output of attention to the stream and to its parts."""
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)
    value, value_bias = jnp.asarray(block.value), jnp.asarray(block.value_bias)
    projection = jnp.asarray(block.projection)
    of_heads = einsum("hd,hde->he", value_bias, projection)
    # Rows of attention sum to 1, or with sinks to less.
    written_bias = einsum("...hi,he->...ie", attention.sum(-1), of_heads)
    whole_bias = add_bias(written_bias, block.projection_bias)

    values = einsum("...jd,dhv->...hjv", seen, value)
    mixed = einsum("...hij,...hjv->...hiv", attention, values)
    added = einsum("...hiv,hve->...ie", mixed, projection) + whole_bias

    vectors = einsum("...jkd,dhv->...hjkv", read, value)
    mixed = einsum("...hij,...hjkv->...hikv", attention, vectors)
    brought = einsum("...hikv,hve->...ike", mixed, projection)
    if bias == "paper":
        brought = distribute_bias(brought, whole_bias, own)
        brought, added = _normalised(brought, added, block.norm_attention_out, own)
        return parts + brought, stream + added
    going = einsum("...hij,he->...ije", attention, of_heads)
    brought = parts + brought + jnp.where(weighted, going, 0)
    rest = whole_bias - jnp.where(weighted, written_bias, 0)
    return distribute_bias(brought, rest, own), stream + added


DECOMPX = Propagation(
    "decompx",
    "DecompX",
    norms,
    "Modarressi et al., DecompX: Explaining Transformers Decisions by Propagating Token "
    "Decomposition, ACL 2023",
    needs=("stream", "blocks"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readout:
    """The parameters of a classification head; what a head does not have is None.

    Attributes
    ----------
    kernel, bias
        ``[D, C]`` and ``[C]``.
    norm
        The closing normalisation of a pre-LayerNorm model, its arrays ``[D]``.
    cap
        Bound c of the outputs z, which are c tanh(z / c) then, as of Gemma.
    pooler, pooler_bias
        ``[D, D]`` and ``[D]``, of BERT's layer on the first token.
    pooler_activation
        ``tanh``, or ``relu`` of DistilBERT.
    """

    kernel: Array
    bias: Array | None = None
    norm: Norm | None = None
    pooler: Array | None = None
    pooler_bias: Array | None = None
    pooler_activation: str = dataclasses.field(default="tanh", metadata={"static": True})
    cap: float | None = dataclasses.field(default=None, metadata={"static": True})


def class_attributions(
    trace: Trace, readout: Readout, tokens: Array | None = None, bias: Bias = "paper"
) -> jax.Array:
    """Return each input token's contribution to each class; they sum to the model's logits.

    Of a language model the classes are the tokens of its vocabulary, or some of them.

    Parameters
    ----------
    trace
        As for `jaxflow.edges.decompx.decompose`.
    readout
        The classification head.
    tokens
        ``[..., n]``, weights that sum to 1 of the tokens that the head reads: 1 at ``[CLS]``, 1 at
        a causal model's last token, or equal weights where the mean is read. None reads the first.
    bias
        See `jaxflow.edges.decompx`.

    Returns
    -------
    jax.Array
        ``[..., n, C]``, signed, 0 at padded tokens.

    Raises
    ------
    InputError
        If the trace lacks what this needs.
    """
    trace = check_trace(trace, ("stream", "blocks"), "DecompX")
    _, parts = decompose(trace, _nothing, bias)
    stream = jnp.asarray(trace.stream)[..., -1, :, :]
    n = stream.shape[-2]
    given = (jnp.arange(n) == 0) if tokens is None else jnp.asarray(tokens)
    read = jnp.broadcast_to(given.astype(stream.dtype), stream.shape[:-1])
    if readout.norm is not None:
        own = jnp.eye(n, dtype=stream.dtype)
        parts, stream = _normalised(parts, stream, readout.norm, own)
    parts = einsum("...i,...ikd->...kd", read, parts)
    pooled = einsum("...i,...id->...d", read, stream)

    highest = jax.lax.Precision.HIGHEST
    if readout.pooler is not None and readout.pooler_bias is not None:
        line = slope(readout.pooler_activation, affine(pooled, readout.pooler, readout.pooler_bias))
        parts = jnp.matmul(parts, jnp.asarray(readout.pooler), precision=highest)
        parts = distribute_bias(parts, readout.pooler_bias, read) * line[..., None, :]
    parts = jnp.matmul(parts, jnp.asarray(readout.kernel), precision=highest)
    if readout.bias is not None:
        parts = distribute_bias(parts, readout.bias, read)
    if readout.cap is not None:
        outputs = parts.sum(-2, keepdims=True)
        parts = parts * slope("tanh", outputs / readout.cap)
    if trace.mask is None:
        return parts
    return jnp.where(jnp.asarray(trace.mask)[..., None], parts, 0)
