"""Define the Transformer block of all models here, its attention, and stacks of blocks.

GPT-2 and ViT normalise the input of a branch, BERT and RoBERTa the sum after it; otherwise their
blocks are the same, parameter for parameter. Attention returns its weights as the softmax gave
them: Flax's own stores them in a collection, after dropout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.layers import EPSILON, Layers, layers_of
from jaxflow.models.output import EncoderOutput, Values, check_tokens, full_mask, readable


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and options of a stack of equal blocks.

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
        True normalises the input of a branch (pre-LayerNorm), False the sum after it (post-).
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


def allowed_pairs(mask: jax.Array, *, causal: bool) -> jax.Array:
    """Return which key (column) a query (row) may attend to; broadcasts to ``[B, 1, n, n]``."""
    allowed = mask[:, None, None, :]
    if causal:
        n = mask.shape[-1]
        allowed = allowed & jnp.tril(jnp.ones((n, n), bool))[None, None]
    return allowed


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    *,
    rate: float = 0.0,
    rng: jax.Array | None = None,
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
    offset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Attend over the allowed keys.

    Parameters
    ----------
    query, key, value
        ``[B, H, n, d]``; queries may be fewer than keys.
    allowed
        Boolean, broadcast to ``[B, H, n, n]``.
    rate, rng
        Dropout of the weights, and its key; None for none.
    product
        The matrix product, of `jaxflow.models.layers.TRAINING` where only gradients are wanted.
    offset
        ``[B, H, n, n]``, added to the weights that mix the values, not to those returned: the
        gradient with respect to it, at 0, is that with respect to attention.

    Returns
    -------
    tuple
        The mixed values ``[B, H, n, d]``, and the weights ``[B, H, n, n]`` before dropout, float32
        or wider, exactly 0 wherever a key is not allowed.

    Notes
    -----
    .. math:: \mathrm{softmax}(Q K^\top / \sqrt{d}) V
    """
    scores = product(query, key.mT) * query.shape[-1] ** -0.5
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # A finite floor keeps a row without any allowed key (a sentence of padding only) free of NaN.
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.where(allowed, jax.nn.softmax(scores, axis=-1), 0)
    dropped = weights if rng is None else dropout(rng, weights, rate)
    if offset is not None:
        dropped = dropped + offset
    return product(dropped.astype(value.dtype), value), weights


def dropout(rng: jax.Array, values: jax.Array, rate: float) -> jax.Array:
    """Set a fraction `rate` of the values to 0 and scale the others by 1 / (1 - rate).

    The key is expanded once, to two words, with which each position hashes its own index: a
    cryptographic generator run for every value took a third of a training step on a CPU.
    """
    words = jax.random.bits(rng, (2,), jnp.uint32)
    position = jax.lax.iota(jnp.uint32, values.size)
    bits = _mix(_mix(position ^ words[0]) + words[1]).reshape(values.shape)
    keep = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, values / (1 - rate), 0)


def _mix(bits: jax.Array) -> jax.Array:
    """Hash 32 bits: two rounds of multiply and xor-shift, every input bit reaching every other."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


class BlockOutput(NamedTuple):
    """A block's stream ``[B, n, D]``, attention ``[B, H, n, n]``, and values or ()."""

    hidden: jax.Array
    attention: jax.Array
    values: tuple[jax.Array, ...]


def normal(scale: float) -> nn.initializers.Initializer:
    """Return the initialiser that draws from a normal distribution of this deviation."""
    return nn.initializers.normal(scale)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis."""

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
        # With pre-LayerNorm, GPT-2 scales the layers that add to the stream by their number.
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
        """Return the stream ``[B, n, D]``, and it with the attention (the form that a scan needs).

        With `readers` only the first so many queries: ``[B, m, D]`` and ``[B, H, m, n]``.
        """
        config, layers = self.config, layers_of(train)
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
        allowed = allowed[:, :, :readers]  # its axis of queries may have length 1
        query, product = query[:, :, :readers], layers_of(train).product
        mixed, attention = attend(
            query, key, value, allowed, rate=rate, rng=rng, product=product, offset=offset
        )
        return mixed.transpose(0, 2, 1, 3).reshape(batch, -1, width), attention, value

    def _projection(self) -> tuple[jax.Array, jax.Array]:
        """Return the output projection by head, ``[H, d, D]``, and its bias ``[D]``."""
        params = self.attention_out.variables["params"]
        heads, width = self.config.heads, self.config.width
        return params["kernel"].reshape(heads, width // heads, width), params["bias"]


class Trunk(NamedTuple):
    """The output of a stack of blocks: fields as in `EncoderOutput`, `stream` the last block's.

    With ``readers`` the stream is of that many tokens, and attention and hidden are None.
    """

    stream: jax.Array
    attention: Any
    hidden: Any
    values: Values | None


def make_blocks(config: BlockConfig, rolled: bool) -> Any:
    """Make the blocks of a model, for its ``setup`` to keep as ``self.blocks``.

    One by one their parameters are ``blocks_0``, ``blocks_1`` ...; `rolled` into one loop they are
    ``blocks``, stacked along a first axis, and a sixth of the program to compile.
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

    `readers` is how many first tokens of the last block are wanted; None wants all. Blocks in one
    loop are for inference, not for training. `offsets` ``[B, L, H, n, n]`` are those of `attend`.
    """
    if isinstance(blocks, nn.Module):
        if offsets is not None:
            raise InputError("offsets must be None for a model whose blocks are one loop")
        last, found = blocks(stream, allowed, False, None, with_values)
        if readers is not None:
            return Trunk(last[:, :readers], None, None, None)
        hidden = jnp.concatenate([stream[None], found.hidden])
        attention, values = found.attention.swapaxes(0, 1), found.values
        if values:
            values = (values[0].swapaxes(0, 1), *values[1:])
        return Trunk(last, attention, hidden.swapaxes(0, 1), Values(*values) if values else None)

    outputs = []
    last = stream
    for place, block in enumerate(blocks, start=1):
        wanted = readers if place == len(blocks) else None
        offset = None if offsets is None else offsets[:, place - 1]
        last, found = block(last, allowed, train, wanted, with_values, offset)
        outputs.append(found)
    if readers is not None:
        return Trunk(last, None, None, None)
    values = None
    if with_values:
        vectors, kernels, biases = zip(*(found.values for found in outputs), strict=True)
        values = Values(jnp.stack(vectors, 1), jnp.stack(kernels), jnp.stack(biases))
    return Trunk(
        last,
        jnp.stack([found.attention for found in outputs], 1),
        jnp.stack([stream, *(found.hidden for found in outputs)], 1),
        values,
    )


class Transformer(nn.Module):
    """Base of the models: embeddings, a stack of blocks, and logits computed from its output.

    A subclass names its parameters in ``setup``, ``word`` and ``blocks`` among them, and defines
    `_begin` and `_classify`; everything an explanation needs is returned, nothing is stored.
    """

    config: Any
    rolled: bool = False

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
        **inputs: Any,
    ) -> EncoderOutput:
        """Return the logits of the head, attention and hidden states.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, special tokens included; images for a `ViT`.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding, or
            every token where the padding token is GPT-2's end token.
        train
            Whether to apply dropout; needs a ``dropout`` key in ``rngs``.
        values
            Whether to return value vectors and output projections too.
        **inputs
            ``token_types`` of a `Bert` with segments: ``[B, n]`` whole numbers, by default 0
            everywhere; the second text of a pair is 1.

        Returns
        -------
        EncoderOutput
            With the shapes given there.

        Raises
        ------
        InputError
            If a shape or dtype is wrong or there are more tokens than positions.
        """
        tokens, mask = self._checked(tokens, mask)
        embeddings = self.embed(tokens)
        return self.encode(embeddings, mask, train, values=values, tokens=tokens, **inputs)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return the word embeddings ``[B, n, D]`` of ``[B, n]``, positions not yet added."""
        embedded: jax.Array = self.word(tokens)
        return embedded

    def encode(
        self,
        embeddings: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
        offsets: jax.Array | None = None,
        **inputs: Any,
    ) -> EncoderOutput:
        """Return what calling the module does, of embeddings ``[B, n, D]``.

        Without a mask all tokens are real. `offsets`, ``[B, L, H, n, n]``, are added to the
        attention that mixes values, not to the one returned.
        """
        mask = full_mask(embeddings, mask, self.config.positions)
        trunk = self._run(embeddings, mask, train, None, values, offsets, **inputs)
        read = self._readable(mask, inputs.get("tokens"))
        logits, pooled = self._classify(trunk.stream, read, train)
        return EncoderOutput(logits, trunk.attention, trunk.hidden, pooled, trunk.values)

    def classify(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        **inputs: Any,
    ) -> jax.Array:
        """Return the logits alone.

        Where classes are computed from the first token, so is the last block's feed-forward layer.
        """
        tokens, mask = self._checked(tokens, mask)
        embeddings = self.embed(tokens)
        mask = full_mask(embeddings, mask, self.config.positions)
        readers = 1 if self._reads_first else None
        trunk = self._run(embeddings, mask, train, readers, tokens=tokens, **inputs)
        logits: Any = self._classify(trunk.stream, self._readable(mask, tokens), train)[0]
        return logits

    @property
    def _reads_first(self) -> bool:
        """Whether `_classify` reads the first token only."""
        return False

    def _readable(self, mask: jax.Array, tokens: Any) -> jax.Array:
        """Return the tokens ``[B, n]`` that classes may be computed from."""
        found: jax.Array = readable(self.config, tokens, mask)
        return found

    def _checked(self, tokens: Any, mask: Any) -> tuple[jax.Array, Any]:
        return check_tokens(self.config, tokens, mask)

    def _begin(
        self,
        embeddings: jax.Array,
        mask: jax.Array,
        train: bool,
        *,
        tokens: Any = None,
        token_types: Any = None,
    ) -> jax.Array:
        """Return the stream that enters the first block: embeddings with positions added."""
        if token_types is not None:
            raise InputError("token_types must be None for a model without segments")
        stream = embeddings + self.position[None, : embeddings.shape[1]]
        return self._drop(stream, train, getattr(self.config, self._embedding_rate))

    _embedding_rate = "dropout"

    def _classify(self, stream: jax.Array, mask: jax.Array, train: bool) -> tuple[Any, Any]:
        """Return the logits, and the vector ``[B, D]`` that classes are computed from."""
        raise NotImplementedError

    def _drop(self, values: jax.Array, train: bool, rate: float) -> jax.Array:
        return dropout(self.make_rng("dropout"), values, rate) if train and rate else values

    def _run(
        self,
        embeddings: jax.Array,
        mask: jax.Array,
        train: bool,
        readers: int | None = None,
        values: bool = False,
        offsets: jax.Array | None = None,
        **inputs: Any,
    ) -> Trunk:
        stream = self._begin(embeddings, mask, train, **inputs)
        allowed = allowed_pairs(mask, causal=self.config.causal)
        return run_blocks(self.blocks, stream, allowed, train, readers, values, offsets)
