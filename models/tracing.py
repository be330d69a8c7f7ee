"""Run a model and return the `jaxflow.edges.Trace` that edge weights are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.edges import BlockWeights, Norm, Trace
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.model import Model, ModelConfig, make_module
from jaxflow.models.output import mask_of, readable
from jaxflow.models.relevance import attention_relevance, has_relevance
from jaxflow.models.subword import ROLES

Target = Callable[[jax.Array], jax.Array]
"""From logits (``[B, C]`` or ``[B, n, V]``) to ``[B]``, the output that is explained."""


def block_weights(config: ModelConfig, params: Any) -> BlockWeights:
    """Stack the parameters of all blocks, which are stored one by one, along a first axis."""
    parts = params["params"]
    blocks: Any = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(parts[f"blocks_{layer}"] for layer in range(config.layers)),
    )
    block = config.block

    def norm(name: str) -> Norm:
        return Norm(blocks[name]["scale"], blocks[name]["bias"], block.epsilon)

    out = blocks["attention_out"]
    projection = out["kernel"].reshape(block.layers, block.heads, -1, block.width)
    # The last third of what makes queries, keys and values.
    kernel = blocks["qkv"]["kernel"][..., -block.width :]
    bias = blocks["qkv"]["bias"][..., -block.width :]
    return BlockWeights(
        projection=projection,
        projection_bias=out["bias"],
        norm_attention=norm("norm_attention"),
        norm_feed_forward=norm("norm_feed_forward"),
        up=blocks["up"]["kernel"],
        up_bias=blocks["up"]["bias"],
        down=blocks["down"]["kernel"],
        down_bias=blocks["down"]["bias"],
        activation=block.activation,
        norm_first=block.norm_first,
        value=kernel.reshape(block.layers, block.width, block.heads, -1),
        value_bias=bias.reshape(block.layers, block.heads, -1),
    )


def tracer(config: ModelConfig, target: Target | None = None) -> Callable[..., Trace]:
    """Return the pure function ``(params, tokens, mask, token_types=None) -> Trace``, not jitted.

    With `target` the trace has the gradient of that output with respect to attention, and the
    relevance of attention where classes are computed from one token.
    """
    module = make_module(config)

    def run(params: Any, tokens: jax.Array, mask: jax.Array, token_types: Any = None) -> Trace:
        embeddings: Any = module.apply(params, tokens, method="embed")

        def encode(offsets: jax.Array | None) -> Any:
            more: dict[str, Any] = {"values": True, "offsets": offsets, "tokens": tokens}
            more |= {} if token_types is None else {"token_types": token_types}
            return module.apply(params, embeddings, mask, method="encode", **more)

        gradient = relevance = None
        if target is not None:
            n = embeddings.shape[1]
            shape = (embeddings.shape[0], config.layers, config.heads, n, n)

            def explained(offsets: jax.Array) -> tuple[jax.Array, Any]:
                output = encode(offsets)
                return target(output.logits).sum(), output

            gradient, output = jax.grad(explained, has_aux=True)(jnp.zeros(shape, jnp.float32))
            if has_relevance(config):
                start = jax.grad(lambda logits: target(logits).sum())(output.logits)
                read = readable(config, tokens, mask)
                with jax.default_matmul_precision("highest"):
                    relevance = attention_relevance(config, params, output, read, start)
        else:
            output = encode(None)
        return Trace(
            attention=output.attention,
            mask=mask,
            gradient=gradient,
            vectors=output.values.vectors,
            stream=output.hidden,
            blocks=None if isinstance(config, DecoderConfig) else block_weights(config, params),
            relevance=relevance,
        )

    return run


def trace(
    model: Model,
    tokens: Any,
    mask: Any = None,
    target: Target | None = None,
    *,
    token_types: Any = None,
) -> Trace:
    """Return the trace of a model on a batch, with every field that the model provides.

    Parameters
    ----------
    model
        A model with its blocks one by one.
    tokens
        ``[B, n]`` whole numbers, or the pixels of images.
    mask
        ``[B, n]`` boolean, True at real tokens; None is that of calling the model.
    target
        The output that is explained, for edge weights that use gradients; by default the logit
        of the predicted class of a model with classes, nothing of another.
    token_types
        ``[B, n]`` whole numbers, the segments of pairs of texts; None is 0 everywhere.

    Returns
    -------
    Trace
        With everything but ``gradient`` and ``relevance`` where there is no target, ``relevance``
        where classes are not computed from one token, and ``special`` without a tokenizer's list.
    """
    tokens = jnp.asarray(tokens)
    if mask is None:
        mask = mask_of(model.config, tokens)
    if mask is None:
        n = model.config.positions if tokens.ndim == 4 else tokens.shape[1]
        mask = jnp.ones((len(tokens), n), bool)
    if target is None and model.config.head == "classification":
        target = _predicted
    given = model.params, tokens, jnp.asarray(mask), token_types
    found = jax.jit(tracer(model.config, target))(*given)
    special = special_tokens(model, tokens)
    return found if special is None else dataclasses.replace(found, special=special)


def _predicted(logits: jax.Array) -> jax.Array:
    return logits.max(-1)


def special_tokens(model: Model, tokens: jax.Array) -> jax.Array | None:
    """Return which tokens ``[B, n]`` are special; None without a tokenizer's list."""
    if tokens.ndim != 2:
        first = np.zeros((len(tokens), model.config.positions), bool)
        first[:, 0] = True
        return jnp.asarray(first)
    if model.tokenizer is None:
        return None
    numbers = [getattr(model.tokenizer, f"{role}_id") for role in ROLES if role != "unk"]
    return jnp.isin(tokens, jnp.array([number for number in numbers if number is not None]))
