r"""Propagate relevance from a class down through all blocks to their attention.

The rules are those of Chefer, Gur and Wolf (CVPR 2021), biases ignored and x ⊘ y standing for
:math:`x / (y + 10^{-9})`, 0 where y is:

* a linear layer propagates along positive contributions:
  :math:`R_j = \sum_i (x_j w_{ji})^+ \big(R_i ⊘ \sum_k (x_k w_{ki})^+\big)`;
* each factor of a matrix product receives :math:`x \odot \partial(R ⊘ z)`, halved;
* each addend of a sum receives :math:`x \odot (R ⊘ z)`, rescaled so that the total is kept, in
  proportion to the absolute sums of the two over a whole sentence;
* normalisation, activation and softmax propagate relevance unchanged.

The relevance of attention is what it receives from its product with the values. Rescaling is by
sentence: examples of a batch are independent, and padding receives 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.blocks import BlockConfig
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.layers import PLAIN
from jaxflow.models.model import ModelConfig
from jaxflow.models.output import EncoderOutput, last_real


def has_relevance(config: ModelConfig) -> bool:
    """Return whether a model computes classes from one token, at which relevance can start."""
    if isinstance(config, DecoderConfig):
        return False
    return config.head == "classification" and getattr(config, "readout", "cls") == "cls"


def attention_relevance(
    config: ModelConfig, params: Any, output: EncoderOutput, mask: jax.Array, start: jax.Array
) -> jax.Array:
    """Propagate relevance from the logits to the attention of every layer.

    Parameters
    ----------
    config, params
        A model's configuration and variables, blocks one by one.
    output
        What the model returned.
    mask
        ``[B, n]`` boolean, True at real tokens; where classes are computed from the last one, not
        at padding tokens, even if a text ends in them.
    start
        ``[B, C]``, the relevance of the logits: 1 at the class that is explained.

    Returns
    -------
    jax.Array
        ``[B, L, H, n, n]``, signed.

    Raises
    ------
    InputError
        If the model computes no classes from one token.
    """
    if not has_relevance(config):
        raise InputError(
            "relevance must start at classes computed from one token, which this model lacks: load "
            "it with a classification head"
        )
    parts, pooled = params["params"], output.pooled
    assert pooled is not None
    found = _linear(pooled, parts["readout"]["kernel"], start)  # [B, D]
    if isinstance(config, BertConfig):
        found = _linear(output.hidden[:, -1, 0], parts["pooler"]["kernel"], found)
    n = mask.shape[-1]
    place = last_real(mask) if config.reads_last else jnp.zeros(len(mask), int)
    relevance = jax.nn.one_hot(place, n, dtype=found.dtype)[..., None] * found[:, None]  # [B, n, D]

    layers = []
    for layer in reversed(range(config.layers)):
        block, stream = parts[f"blocks_{layer}"], output.hidden[:, layer]
        attention = output.attention[:, layer]
        relevance, paid = _block(config.block, block, stream, attention, relevance)
        layers.append(paid)
    return jnp.stack(layers[::-1], 1)


def _block(
    config: BlockConfig, block: Any, stream: jax.Array, attention: jax.Array, relevance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the relevance of a block's stream ``[B, n, D]`` and attention ``[B, H, n, n]``."""

    def normal(name: str, values: jax.Array) -> jax.Array:
        norm = block[name]
        return PLAIN.layer_norm(values, norm["scale"], norm["bias"], config.epsilon)

    def dense(name: str, values: jax.Array) -> jax.Array:
        return values @ block[name]["kernel"] + block[name]["bias"][None, None]

    # The block again, for the intermediate values that its output does not contain.
    first = config.norm_first
    read = normal("norm_attention", stream) if first else stream
    heads = (*read.shape[:2], config.heads, -1)
    query, key, value = (
        part.reshape(heads).transpose(0, 2, 1, 3)
        for part in jnp.split(dense("qkv", read), 3, axis=-1)
    )  # each [B, H, n, d]
    mixed = attention @ value
    flat = mixed.transpose(0, 2, 1, 3).reshape(stream.shape)
    written = dense("attention_out", flat)
    middle = stream + written if first else normal("norm_attention", stream + written)
    given = normal("norm_feed_forward", middle) if first else middle
    expanded = PLAIN.activation(config.activation)(dense("up", given))
    last = dense("down", expanded)

    # Backwards.
    of_last, of_middle = _sum(last, middle, relevance)
    of_expanded = _linear(expanded, block["down"]["kernel"], of_last)
    of_middle = of_middle + _linear(given, block["up"]["kernel"], of_expanded)
    of_written, of_stream = _sum(written, stream, of_middle)
    of_flat = _linear(flat, block["attention_out"]["kernel"], of_written)
    of_mixed = of_flat.reshape(heads).transpose(0, 2, 1, 3)
    paid, of_value = _product(attention, value, mixed, of_mixed)
    scores = query @ key.mT
    of_query, of_key = _product(query, key.mT, scores, paid)
    of_heads = (of_query, of_key.mT, of_value)
    of_fused = [part.transpose(0, 2, 1, 3).reshape(stream.shape) for part in of_heads]
    of_read = _linear(read, block["qkv"]["kernel"], jnp.concatenate(of_fused, -1))
    return of_stream + of_read, paid


def _divide(part: jax.Array, whole: jax.Array) -> jax.Array:
    shifted = whole + 1e-9
    return jnp.where(whole == 0, 0, part / jnp.where(shifted == 0, 1e-9, shifted))


def _linear(values: jax.Array, kernel: jax.Array, relevance: jax.Array) -> jax.Array:
    positive, negative = jnp.maximum(kernel, 0), jnp.minimum(kernel, 0)
    up, down = jnp.maximum(values, 0), jnp.minimum(values, 0)
    shares = _divide(relevance, up @ positive + down @ negative)
    return up * (shares @ positive.T) + down * (shares @ negative.T)


def _product(
    left: jax.Array, right: jax.Array, whole: jax.Array, relevance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    shares = _divide(relevance, whole)
    return left * (shares @ right.mT) / 2, right * (left.mT @ shares) / 2


def _sum(left: jax.Array, right: jax.Array, relevance: jax.Array) -> tuple[jax.Array, jax.Array]:
    shares = _divide(relevance, left + right)
    parts = left * shares, right * shares
    total = relevance.sum((-2, -1), keepdims=True)  # [B, 1, 1]
    sums = [part.sum((-2, -1), keepdims=True) for part in parts]
    weight = abs(sums[0]) + abs(sums[1])
    scaled = [
        part * _divide(_divide(abs(one), weight) * total, one)
        for part, one in zip(parts, sums, strict=True)
    ]
    return scaled[0], scaled[1]
