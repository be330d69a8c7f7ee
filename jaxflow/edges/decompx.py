r"""DecompX: the hidden states taken apart into what each input token brought, layer after layer.

Input token k enters as its own vector, embedding with position, and every step of a block acts on
the parts :math:`x_{i \Leftarrow k}` of token i's vector instead of on their sum: attention is
linear once its weights are known; normalisation is linearised at its actual deviation; the
activation is the line through the origin and its value, :math:`f(x) / x`; and a bias b is shared
out by :math:`|\langle v_k, b \rangle|`, v the parts that it is added to. So the parts sum to the
true hidden state after every layer (`reconstruction`). Tokens count by the norms of their parts.

The paper has the blocks of BERT, and shares out the bias of attention, with that of value vectors
in it, by what attention alone brings (its equations 4 to 6). The authors' code shares it out after
the residual connection has been added, and in the first layer lets the value vectors' bias go with
the attention that they are paid: ``bias="published"`` does as the code does, ``bias="paper"`` is
what the registered propagation does. Of pre-LayerNorm blocks the parts of the stream are followed,
and normalised where a branch reads them. A bias to which all parts are at right angles goes to the
token itself; the code drops it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxflow.edges.block_output import layer_norm
from jaxflow.edges.contributions import linear_norm, with_own
from jaxflow.edges.linearised import affine, share, slope
from jaxflow.edges.propagation import Propagation
from jaxflow.edges.trace import Norm, Trace, require
from jaxflow.edges.values import BlocksWithValues, blocks_with_values
from jaxflow.errors import InputError

__all__ = ["PROPAGATIONS", "Bias", "decompose", "norms", "reconstruction"]

Bias = Literal["paper", "published"]

_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def decompose(
    trace: Trace, read: Callable[[jax.Array], jax.Array], bias: Bias = "paper"
) -> tuple[jax.Array, jax.Array]:
    """Take all hidden states apart, one layer after another.

    Parameters
    ----------
    trace
        With ``stream`` and ``blocks``, these with values (`jaxflow.edges.values.with_values`).
    read
        From the parts after a layer, ``[..., n, n, D]`` (token, input token), to what is kept. One
        of a module: it is compiled once, and again for every new function.
    bias
        How attention's bias is shared out: see the module's docstring.

    Returns
    -------
    tuple
        What was kept, its layer axis before the last two, and the parts after the last layer.

    Raises
    ------
    InputError
        If the trace lacks what this needs, or there is no such way to share out.
    """
    if bias not in get_args(Bias):
        raise InputError(f"bias must be one of {', '.join(get_args(Bias))}, got {bias!r}")
    require(trace, ("stream", "blocks"), "DecompX")
    blocks = blocks_with_values(trace, "DecompX")
    given = jnp.asarray(trace.attention), jnp.asarray(trace.stream)
    return _decompose(*given, blocks, read, bias)


@partial(jax.jit, static_argnames=("read", "bias"))
def _decompose(
    attention: jax.Array,
    stream: jax.Array,
    blocks: BlocksWithValues,
    read: Callable[[jax.Array], jax.Array],
    bias: Bias,
) -> tuple[jax.Array, jax.Array]:
    attention = jnp.moveaxis(attention, -4, 0)
    stream = jnp.moveaxis(stream, -3, 0)
    nothing = jnp.zeros_like(jnp.expand_dims(stream[0], -2) + jnp.expand_dims(stream[0], -3))
    parts = with_own(nothing, stream[0])  # [..., n, n, D]
    # Whether the value vectors' bias goes where they are paid attention.
    paid = (jnp.arange(len(attention)) == 0) & (bias == "published")

    def step(parts: jax.Array, layer: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        parts = _block(parts, *layer, bias=bias)
        return parts, read(parts)

    last, kept = jax.lax.scan(step, parts, (attention, stream[:-1], blocks, paid))
    return jnp.moveaxis(kept, 0, -3), last


def norms(trace: Trace, bias: Bias = "paper") -> jax.Array:
    """Return the norm of what each input token brought to each token, ``[..., L, n, n]``."""
    return decompose(trace, _norms, bias)[0]


def reconstruction(trace: Trace, bias: Bias = "paper") -> jax.Array:
    """Return the sums of all parts, ``[..., L, n, D]``: the trace's stream after each layer."""
    return decompose(trace, _sums, bias)[0]


def _norms(parts: jax.Array) -> jax.Array:
    return jnp.linalg.norm(parts, axis=-1)


def _sums(parts: jax.Array) -> jax.Array:
    return parts.sum(-2)


def _block(
    parts: jax.Array,
    attention: jax.Array,
    stream: jax.Array,
    block: BlocksWithValues,
    paid: jax.Array,
    *,
    bias: Bias,
) -> jax.Array:
    """Return the parts after one block of the parts ``[..., n, n, D]`` that enter it.

    The model's own values, which all lines are drawn through, are worked out beside them.
    """
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)

    def normalised(parts: jax.Array, whole: jax.Array, norm: Norm) -> tuple[jax.Array, jax.Array]:
        linear = linear_norm(parts, whole, jnp.asarray(norm.scale), norm.epsilon)
        return share(linear, norm.bias, own), layer_norm(whole, norm)

    first, last = block.norm_first, not block.norm_first
    read, seen = normalised(parts, stream, block.norm_attention) if first else (parts, stream)
    parts, stream = _attend(parts, stream, read, seen, attention, block, paid, bias)
    if last:
        parts, stream = normalised(parts, stream, block.norm_attention)

    read, seen = normalised(parts, stream, block.norm_feed_forward) if first else (parts, stream)
    expanded = affine(seen, block.up, block.up_bias)  # [..., n, F]
    line = slope(block.activation, expanded)
    stream = stream + affine(line * expanded, block.down, block.down_bias)
    hidden = share(_einsum("...ikd,df->...ikf", read, jnp.asarray(block.up)), block.up_bias, own)
    hidden = hidden * line[..., :, None, :]
    written = _einsum("...ikf,fd->...ikd", hidden, jnp.asarray(block.down))
    parts = parts + share(written, block.down_bias, own)
    if last:
        parts, _ = normalised(parts, stream, block.norm_feed_forward)
    return parts


def _attend(
    parts: jax.Array,
    stream: jax.Array,
    read: jax.Array,
    seen: jax.Array,
    attention: jax.Array,
    block: BlocksWithValues,
    paid: jax.Array,
    bias: Bias,
) -> tuple[jax.Array, jax.Array]:
    """Add to the stream and to its parts what attention brings of what is read."""
    own = jnp.eye(parts.shape[-2], dtype=parts.dtype)
    value, value_bias = jnp.asarray(block.value), jnp.asarray(block.value_bias)
    projection = jnp.asarray(block.projection)
    written_bias = _einsum("hd,hde->e", value_bias, projection)  # rows of attention sum to 1
    whole_bias = written_bias + jnp.asarray(block.projection_bias)

    values = _einsum("...jd,dhv->...hjv", seen, value)
    mixed = _einsum("...hij,...hjv->...hiv", attention, values)
    added = _einsum("...hiv,hve->...ie", mixed, projection)
    stream = stream + added + jnp.broadcast_to(whole_bias, stream.shape)

    vectors = _einsum("...jkd,dhv->...hjkv", read, value)
    mixed = _einsum("...hij,...hjkv->...hikv", attention, vectors)
    brought = _einsum("...hikv,hve->...ike", mixed, projection)
    if bias == "paper":
        return parts + share(brought, whole_bias, own), stream
    going = _einsum("...hij,he->...ije", attention, _einsum("hd,hde->he", value_bias, projection))
    brought = parts + brought + jnp.where(paid, going, 0)
    return share(brought, whole_bias - jnp.where(paid, written_bias, 0), own), stream


PROPAGATIONS = Propagation(
    "decompx",
    "DecompX",
    norms,
    "Modarressi et al., DecompX: Explaining Transformers Decisions by Propagating Token "
    "Decomposition, ACL 2023",
    needs=("stream", "blocks"),
)
