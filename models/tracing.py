"""Run a model and return the `jaxflow.edges.Trace` that edge weights are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.edges import BlockWeights, Norm, Trace
from jaxflow.models.blocks import within
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.model import Model, ModelConfig, make_module
from jaxflow.models.output import mask_of, readable
from jaxflow.models.relevance import attention_relevance, has_relevance, stacked_blocks
from jaxflow.models.subword import ROLES

Target = Callable[[jax.Array], jax.Array]
"""From logits (``[B, C]`` or ``[B, n, V]``) to ``[B]``, the output that is explained."""


def block_weights(config: ModelConfig, params: Any) -> BlockWeights:
    """Return the parameters of all blocks, biases that a model lacks being 0."""
    blocks, block = stacked_blocks(config, params), config.block
    layers, heads, groups = block.layers, block.heads, block.groups

    def norm(name: str) -> Norm:
        return Norm(blocks[name]["scale"], blocks[name].get("bias"), block.epsilon, block.rms)

    def dense(name: str) -> tuple[Any, Any]:
        kernel = blocks[name]["kernel"]
        return kernel, blocks[name].get("bias", jnp.zeros_like(kernel[:, 0]))

    projection, projection_bias = dense("attention_out")
    router = router_bias = None
    if block.experts:
        names = ("up_kernel", "up_bias", "down_kernel", "down_bias")
        up, up_bias, down, down_bias = (blocks["experts"][name] for name in names)
        router, router_bias = (blocks["experts"]["router"][name] for name in ("kernel", "bias"))
    else:
        up, up_bias, down, down_bias = *dense("up"), *dense("down")
    # The last columns of what makes queries, keys and values; one copy for each head.
    value, value_bias = (part[..., -groups * block.size :] for part in dense("qkv"))
    value = value.reshape(layers, block.width, groups, -1)
    value_bias = value_bias.reshape(layers, groups, -1)
    branches = block.norm_branches
    return BlockWeights(
        projection=projection.reshape(layers, heads, -1, block.width),
        projection_bias=projection_bias,
        norm_attention=norm("norm_attention"),
        norm_feed_forward=norm("norm_feed_forward"),
        up=up,
        up_bias=up_bias,
        down=down,
        down_bias=down_bias,
        activation=block.activation,
        norm_first=block.norm_first,
        value=jnp.repeat(value, heads // groups, -2),
        value_bias=jnp.repeat(value_bias, heads // groups, -2),
        gated=block.gated,
        parallel=block.parallel,
        norm_attention_out=norm("norm_attention_out") if branches else None,
        norm_feed_forward_out=norm("norm_feed_forward_out") if branches else None,
        router=router,
        router_bias=router_bias,
        chosen=block.chosen,
    )


def tracer(config: ModelConfig, target: Target | None = None) -> Callable[..., Trace]:
    """Return the pure function ``(params, tokens, mask, token_types=None) -> Trace``, not jitted.

    With `target` the trace has the gradient of that output with respect to attention, and the
    relevance of attention where `jaxflow.models.relevance` has the rules.
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
        visible = visible_tokens(config, mask.shape[-1])
        if visible is not None:
            visible = jnp.broadcast_to(visible, (len(mask), *visible.shape)) & mask[:, None, None]
        return Trace(
            attention=output.attention,
            mask=mask,
            gradient=gradient,
            vectors=output.values.vectors,
            stream=output.hidden,
            blocks=block_weights(config, params),
            relevance=relevance,
            sink=output.sink,
            visible=visible,
        )

    return run


def visible_tokens(config: ModelConfig, n: int) -> jax.Array | None:
    """Return the keys that each layer's queries may attend to, ``[L, n, n]``.

    None of a model without windows or chunks.
    """
    if not isinstance(config, DecoderConfig) or not config.reaches:
        return None
    places = jnp.arange(n)
    return jax.vmap(lambda reach: within(reach, places, places)[0, 0])(config.reach())


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
        A model.
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
        where its rules are missing (a mixture of experts, masked language models, a mean of
        tokens), and ``special`` without a tokenizer's list.
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
