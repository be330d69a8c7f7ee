"""The Transformer block that all models here are made of, and how blocks are stacked.

GPT-2 and ViT normalise what a branch reads, BERT and its kin what a branch has been added to;
otherwise their blocks are the same, parameter for parameter.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import attend, dropout
from jaxflow.models.layers import EPSILON, PLAIN, TRAINING, Layers
from jaxflow.models.output import Values

__all__ = ["Block", "BlockConfig", "LayerNorm", "Trunk", "make_blocks", "normal", "run_blocks"]


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and manners of a stack of equal blocks.

    Attributes
    ----------
    layers, heads, width, hidden_width
        Blocks, heads a block, width of the stream and of the feed-forward layer.
    dropout, attention_dropout
        Rate on each residual branch and on the attention weights while training.
    activation
        Of the feed-forward layer, one of `jaxflow.models.layers.ACTIVATIONS`.
    epsilon
        What layer normalisation adds to the variance.
    norm_first
        True normalises what a branch reads (pre-LayerNorm), False the sum after it (post-).
    """

    layers: int
    heads: int
    width: int
    hidden_width: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu_new"
    epsilon: float = EPSILON
    norm_first: bool = True


class BlockOutput(NamedTuple):
    """What one block tells: stream ``[B, n, D]``, attention ``[B, H, n, n]``, and values or ()."""

    hidden: jax.Array
    attention: jax.Array
    values: tuple[jax.Array, ...]


def normal(scale: float) -> nn.initializers.Initializer:
    """Return the initialiser that draws from a normal distribution of this deviation."""
    return nn.initializers.normal(scale)


class LayerNorm(nn.Module):
    """Layer normalisation's parameters."""

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, values: jax.Array, layers: Layers) -> jax.Array:
        """Normalise the last axis of ``[..., D]``."""
        width = values.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return layers.layer_norm(values, scale, bias, self.epsilon)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the stream."""

    config: BlockConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        # Where the stream itself is never normalised, GPT-2 scales the layers that write to it by
        # the number of such writes.
        scale = 0.02 / (2 * config.layers) ** 0.5 if config.norm_first else 0.02
        self.norm_attention = LayerNorm(config.epsilon)
        self.qkv = nn.Dense(3 * config.width, kernel_init=normal(0.02))
        self.attention_out = nn.Dense(config.width, kernel_init=normal(scale))
        self.norm_feed_forward = LayerNorm(config.epsilon)
        self.up = nn.Dense(config.hidden_width, kernel_init=normal(0.02))
        self.down = nn.Dense(config.width, kernel_init=normal(scale))

    def _drop(self, values: jax.Array, train: bool) -> jax.Array:
        rate = self.config.dropout
        return dropout(self.make_rng("dropout"), values, rate) if train and rate else values

    def __call__(
        self,
        stream: jax.Array,
        allowed: jax.Array,
        train: bool = False,
        readers: int | None = None,
        with_values: bool = False,
        offset: jax.Array | None = None,
    ) -> tuple[jax.Array, BlockOutput]:
        """Return the stream ``[B, n, D]``, twice: to go on with, and beside the attention.

        With `readers` only what the first so many tokens read: ``[B, m, D]`` and ``[B, H, m, n]``.
        """
        config, layers = self.config, TRAINING if train else PLAIN
        first, last = config.norm_first, not config.norm_first
        read = self.norm_attention(stream, layers) if first else stream
        mixed, attention, value = self._attend(read, allowed, train, readers, offset)
        stream = stream[:, :readers] + self._drop(self.attention_out(mixed), train)  # [B, m, D]
        if last:
            stream = self.norm_attention(stream, layers)

        read = self.norm_feed_forward(stream, layers) if first else stream
        expanded = layers.activation(config.activation)(self.up(read))  # [B, m, hidden width]
        stream = stream + self._drop(self.down(expanded), train)
        if last:
            stream = self.norm_feed_forward(stream, layers)
        values = (value, *self._projection()) if with_values else ()
        return stream, BlockOutput(stream, attention, values)

    def _attend(
        self,
        read: jax.Array,
        allowed: jax.Array,
        train: bool,
        readers: int | None,
        offset: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the mixed values ``[B, m, D]``, the weights, and the values ``[B, H, n, d]``."""
        batch, n, width = read.shape
        heads, rate = self.config.heads, self.config.attention_dropout
        fused = self.qkv(read)  # [B, n, 3 D]
        query, key, value = (
            part.reshape(batch, n, heads, width // heads).transpose(0, 2, 1, 3)
            for part in jnp.split(fused, 3, axis=-1)
        )  # each [B, H, n, d]
        rng = self.make_rng("dropout") if train and rate else None
        allowed = allowed[:, :, :readers]  # its queries may be one for all
        product = (TRAINING if train else PLAIN).product
        mixed, attention = attend(
            query[:, :, :readers],
            key,
            value,
            allowed,
            rate=rate,
            rng=rng,
            product=product,
            offset=offset,
        )
        return mixed.transpose(0, 2, 1, 3).reshape(batch, -1, width), attention, value

    def _projection(self) -> tuple[jax.Array, jax.Array]:
        """Return the output projection by head, ``[H, d, D]``, and its bias ``[D]``."""
        params = self.attention_out.variables["params"]
        heads, width = self.config.heads, self.config.width
        return params["kernel"].reshape(heads, width // heads, width), params["bias"]


class Trunk(NamedTuple):
    """What a stack of blocks tells; fields as in `EncoderOutput`, `stream` what the last returns.

    With ``readers`` the stream is of that many tokens, and attention and hidden are None.
    """

    stream: jax.Array
    attention: Any
    hidden: Any
    values: Values | None


def make_blocks(config: BlockConfig, rolled: bool) -> Any:
    """Make the blocks of a model, for its ``setup`` to keep as ``self.blocks``.

    One after another their parameters are ``blocks_0``, ``blocks_1`` ...; `rolled` into one loop
    they are ``blocks``, stacked along a first axis, and a sixth of the program to compile.
    """
    if not rolled:
        return [Block(config) for _ in range(config.layers)]
    loop = nn.scan(
        Block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=config.layers,
    )
    return loop(config)


def run_blocks(
    blocks: Any,
    stream: jax.Array,
    allowed: jax.Array,
    train: bool = False,
    readers: int | None = None,
    with_values: bool = False,
    offsets: jax.Array | None = None,
) -> Trunk:
    """Run a stream ``[B, n, D]`` through all blocks.

    `readers` is how many first tokens of the last block are wanted, where it is not all; a loop
    works all out. Loops are for reading a model, not for training it. `offsets`, ``[B, L, H, n,
    n]``, are added to the attention that mixes values: see `jaxflow.models.attention.attend`.
    """
    if isinstance(blocks, nn.Module):
        if offsets is not None:
            raise InputError("offsets must be None for a model whose blocks are one loop")
        last, told = blocks(stream, allowed, False, None, with_values)
        if readers is not None:
            return Trunk(last[:, :readers], None, None, None)
        hidden = jnp.concatenate([stream[None], told.hidden])
        attention, values = told.attention.swapaxes(0, 1), told.values
        if values:
            values = (values[0].swapaxes(0, 1), *values[1:])
        return Trunk(last, attention, hidden.swapaxes(0, 1), Values(*values) if values else None)

    outputs = []
    last = stream
    for place, block in enumerate(blocks, start=1):
        wanted = readers if place == len(blocks) else None
        offset = None if offsets is None else offsets[:, place - 1]
        last, told = block(last, allowed, train, wanted, with_values, offset)
        outputs.append(told)
    if readers is not None:
        return Trunk(last, None, None, None)
    values = None
    if with_values:
        vectors, kernels, biases = zip(*(told.values for told in outputs), strict=True)
        values = Values(jnp.stack(vectors, 1), jnp.stack(kernels), jnp.stack(biases))
    return Trunk(
        last,
        jnp.stack([told.attention for told in outputs], 1),
        jnp.stack([stream, *(told.hidden for told in outputs)], 1),
        values,
    )
