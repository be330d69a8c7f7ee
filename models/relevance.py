r"""Propagate relevance from a class, or a token, down through all blocks to their attention.

The rules are those of Chefer, Gur and Wolf (CVPR 2021), biases ignored and x ⊘ y standing for
:math:`x / (y + 10^{-9})`, 0 where y is:

* a linear layer propagates along positive contributions:
  :math:`R_j = \sum_i (x_j w_{ji})^+ \big(R_i ⊘ \sum_k (x_k w_{ki})^+\big)`;
* each factor of a product receives :math:`x \odot \partial(R ⊘ z)`, halved;
* each addend of a sum receives :math:`x \odot (R ⊘ z)`, rescaled so that the total is kept, in
  proportion to the absolute sums of the two over a whole sentence;
* normalisation, activation and softmax propagate relevance unchanged.

Decoders add to these: RMSNorm, the norms of heads and branches and soft-caps are such functions,
too; a gated feed-forward layer is a product; scores are one of queries and keys before their
rotation, which is linear; and values that heads share receive the sum of what these propagate. A
mixture of experts has no rule.

The relevance of attention is what it receives from its product with the values. Rescaling is by
sentence: examples of a batch are independent, and padding receives 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.blocks import BlockConfig
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.layers import PLAIN, rms_norm
from jaxflow.models.model import ModelConfig
from jaxflow.models.output import EncoderOutput, last_real
from jaxflow.models.rotary import rotate


def has_relevance(config: ModelConfig) -> bool:
    """Return whether there are rules for all of a model, from its classes or next tokens down."""
    if config.block.experts:
        return False
    if config.head == "lm":
        return True
    return config.head == "classification" and getattr(config, "readout", "cls") == "cls"


def stacked_blocks(config: ModelConfig, params: Any) -> Any:
    """Return the parameters of all blocks along a first axis of layers."""
    parts = params["params"]
    if "blocks" in parts:
        return parts["blocks"]
    blocks = (parts[f"blocks_{layer}"] for layer in range(config.layers))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def attention_relevance(
    config: ModelConfig, params: Any, output: EncoderOutput, mask: jax.Array, start: jax.Array
) -> jax.Array:
    """Propagate relevance from the logits to the attention of every layer.

    Parameters
    ----------
    config, params
        A model's configuration and variables.
    output
        What the model returned.
    mask
        ``[B, n]`` boolean, True at real tokens; where classes are computed from the last one, not
        at padding tokens, even if a text ends in them.
    start
        ``[B, C]``, the relevance of the logits: 1 at the class that is explained; ``[B, n, V]`` of
        a language model.

    Returns
    -------
    jax.Array
        ``[B, L, H, n, n]``, signed.

    Raises
    ------
    InputError
        If the model has a mixture of experts, or computes neither classes from one token nor the
        next token.
    """
    if config.block.experts:
        raise InputError(
            "relevance has no rule for a mixture of experts, which this model has: choose another "
            "edge weight"
        )
    if not has_relevance(config):
        raise InputError(
            "relevance must start at classes computed from one token, which this model lacks: load "
            "it with a classification head"
        )
    parts = params["params"]
    if config.head == "lm":
        table = parts["word"]["embedding"] if config.tied else parts["decoder"]  # type: ignore[union-attr]
        normed = _norm(config.block, parts["norm"], output.hidden[:, -1])
        relevance = _linear(normed, table.T, start)  # [B, n, D]
    else:
        pooled = output.pooled
        assert pooled is not None
        found = _linear(pooled, parts["readout"]["kernel"], start)  # [B, D]
        if isinstance(config, BertConfig):
            found = _linear(output.hidden[:, -1, 0], parts["pooler"]["kernel"], found)
        n = mask.shape[-1]
        place = last_real(mask) if config.reads_last else jnp.zeros(len(mask), int)
        relevance = jax.nn.one_hot(place, n, dtype=found.dtype)[..., None] * found[:, None]

    turns: Any = None
    if isinstance(config, DecoderConfig):
        rows = config.rows_of_tables()
        turns = [table[rows] for table in config.tables(mask.shape[-1])]  # [L, n, r/2]

    def step(relevance: jax.Array, layer: Any) -> tuple[jax.Array, jax.Array]:
        block, stream, attention, turn = layer
        return _block(config.block, block, stream, attention, turn, relevance)

    streams, attention = output.hidden[:, :-1].swapaxes(0, 1), output.attention.swapaxes(0, 1)
    layers = stacked_blocks(config, params), streams, attention, turns
    _, paid = jax.lax.scan(step, relevance, layers, reverse=True)
    return paid.swapaxes(0, 1)


def _norm(config: BlockConfig, norm: Any, values: jax.Array) -> jax.Array:
    if config.rms:
        return rms_norm(values, norm["scale"], config.epsilon)
    return PLAIN.layer_norm(values, norm["scale"], norm["bias"], config.epsilon)


def _block(
    config: BlockConfig,
    block: Any,
    stream: jax.Array,
    attention: jax.Array,
    turns: Any,
    relevance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the relevance of a block's stream ``[B, n, D]`` and attention ``[B, H, n, n]``."""

    def normal(name: str, values: jax.Array, wanted: bool = True) -> jax.Array:
        return _norm(config, block[name], values) if wanted else values

    def dense(name: str, values: jax.Array) -> jax.Array:
        product = values @ block[name]["kernel"]
        return product + jnp.broadcast_to(block[name].get("bias", 0), product.shape)

    def split(joined: jax.Array) -> jax.Array:
        """Return ``[B, ., n, d]`` of the heads in ``[B, n, . d]``."""
        return joined.reshape(*stream.shape[:2], -1, config.size).swapaxes(1, 2)

    def join(heads: jax.Array) -> jax.Array:
        return heads.swapaxes(1, 2).reshape(*stream.shape[:2], -1)

    def shared(heads: jax.Array) -> jax.Array:
        return jnp.repeat(heads, config.heads // config.groups, 1)

    def scores(query: jax.Array, key: jax.Array) -> jax.Array:
        if turns is not None:
            query, key = rotate(query, *turns), rotate(key, *turns)
        return query @ shared(key).mT

    def mix(attention: jax.Array, value: jax.Array) -> jax.Array:
        return attention @ shared(value)

    # The block again, for the intermediate values that its output does not contain.
    first, last = config.norm_first, not config.norm_first
    branches, heads = config.norm_branches, config.norm_heads
    read = normal("norm_attention", stream, first)
    ends = [config.heads * config.size, (config.heads + config.groups) * config.size]
    query, key, value = (split(part) for part in jnp.split(dense("qkv", read), ends, axis=-1))
    query, key = normal("norm_query", query, heads), normal("norm_key", key, heads)
    flat = join(mix(attention, value))
    written = normal("norm_attention_out", dense("attention_out", flat), branches)
    middle = normal("norm_attention", stream + written, last)
    given = normal("norm_feed_forward", stream if config.parallel else middle, first)
    gate, linear = dense("up", given), None
    if config.gated:
        gate, linear = jnp.split(gate, 2, axis=-1)
    active = PLAIN.activation(config.activation)(gate)
    expanded = active if linear is None else active * linear
    added = normal("norm_feed_forward_out", dense("down", expanded), branches)

    # Backwards.
    of_added, of_middle = _sum(added, middle, relevance)
    of_expanded = _linear(expanded, block["down"]["kernel"], of_added)
    if linear is not None:
        of_factors = _product(jnp.multiply, active, linear, of_expanded)
        of_expanded = jnp.concatenate(of_factors, -1)
    of_given = _linear(given, block["up"]["kernel"], of_expanded)
    if not config.parallel:
        of_middle = of_middle + of_given
    of_written, of_stream = _sum(written, stream, of_middle)
    if config.parallel:
        of_stream = of_stream + of_given
    of_flat = _linear(flat, block["attention_out"]["kernel"], of_written)
    paid, of_value = _product(mix, attention, value, split(of_flat))
    of_query, of_key = _product(scores, query, key, paid)
    of_fused = jnp.concatenate([join(part) for part in (of_query, of_key, of_value)], -1)
    return of_stream + _linear(read, block["qkv"]["kernel"], of_fused), paid


def _divide(part: jax.Array, whole: jax.Array) -> jax.Array:
    shifted = whole + 1e-9
    return jnp.where(whole == 0, 0, part / jnp.where(shifted == 0, 1e-9, shifted))


def _linear(values: jax.Array, kernel: jax.Array, relevance: jax.Array) -> jax.Array:
    positive, negative = jnp.maximum(kernel, 0), jnp.minimum(kernel, 0)
    up, down = jnp.maximum(values, 0), jnp.minimum(values, 0)
    shares = _divide(relevance, up @ positive + down @ negative)
    return up * (shares @ positive.T) + down * (shares @ negative.T)


def _product(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    left: jax.Array,
    right: jax.Array,
    relevance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the relevance of the factors of a function that is linear in each of the two."""
    kind = jnp.promote_types(left.dtype, relevance.dtype)
    whole, pull = jax.vjp(function, left.astype(kind), right.astype(kind))
    of_left, of_right = pull(_divide(relevance, whole))
    return left * of_left / 2, right * of_right / 2


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
