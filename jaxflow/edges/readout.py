"""Classes taken apart: what each input token brought to each logit, after DecompX."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.block_output import layer_norm
from jaxflow.edges.contributions import linear_norm
from jaxflow.edges.decompx import Bias, decompose
from jaxflow.edges.linearised import affine, share, slope
from jaxflow.edges.trace import Norm, Trace

__all__ = ["Readout", "class_attributions"]


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
    pooler, pooler_bias
        ``[D, D]`` and ``[D]``, of the layer that BERT reads the first token with.
    pooler_activation
        ``tanh``, or ``relu`` of DistilBERT.
    """

    kernel: Array
    bias: Array | None = None
    norm: Norm | None = None
    pooler: Array | None = None
    pooler_bias: Array | None = None
    pooler_activation: str = dataclasses.field(default="tanh", metadata={"static": True})


def class_attributions(
    trace: Trace, readout: Readout, tokens: Array | None = None, bias: Bias = "paper"
) -> jax.Array:
    """Return what each input token brought to each class: they sum to the model's logits.

    Parameters
    ----------
    trace
        As for `jaxflow.edges.decompx.decompose`.
    readout
        The head.
    tokens
        ``[..., n]``, shares that sum to 1 of the tokens that the head reads: 1 at ``[CLS]``, 1 at
        a causal model's last token, or equal shares where the mean is read. None reads the first.
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
    _, parts = decompose(trace, _nothing, bias)
    stream = jnp.asarray(trace.stream)[..., -1, :, :]
    n = stream.shape[-2]
    given = (jnp.arange(n) == 0) if tokens is None else jnp.asarray(tokens)
    read = jnp.broadcast_to(given.astype(stream.dtype), stream.shape[:-1])
    if readout.norm is not None:
        norm = readout.norm
        own = jnp.eye(n, dtype=stream.dtype)
        parts = linear_norm(parts, stream, jnp.asarray(norm.scale), norm.epsilon)
        parts, stream = share(parts, norm.bias, own), layer_norm(stream, norm)
    highest = jax.lax.Precision.HIGHEST
    parts = jnp.einsum("...i,...ikd->...kd", read, parts, precision=highest)
    pooled = jnp.einsum("...i,...id->...d", read, stream, precision=highest)

    if readout.pooler is not None and readout.pooler_bias is not None:
        line = slope(readout.pooler_activation, affine(pooled, readout.pooler, readout.pooler_bias))
        parts = jnp.matmul(parts, jnp.asarray(readout.pooler), precision=highest)
        parts = share(parts, readout.pooler_bias, read) * line[..., None, :]
    parts = jnp.matmul(parts, jnp.asarray(readout.kernel), precision=highest)
    if readout.bias is not None:
        parts = share(parts, readout.bias, read)
    if trace.mask is None:
        return parts
    real = jnp.asarray(trace.mask)[..., None]
    return jnp.where(real, parts, 0)


def _nothing(parts: jax.Array) -> jax.Array:
    return parts[..., :0]
