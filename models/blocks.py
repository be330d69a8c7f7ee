"""Define the Transformer block of all models here, its attention, and stacks of blocks.

One block serves all: GPT-2 and ViT normalise the input of a branch, BERT and RoBERTa the sum after
it, and the switches of `BlockConfig` make it that of Llama and its kin, whose queries share keys
and values in groups. Attention returns its weights as the softmax gave them: Flax's own stores them
in a collection, after dropout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow._blocks import Limits, Pattern, default_block
from jaxflow._blocks import attend as attend_text
from jaxflow.edges._blocks import mixture
from jaxflow.errors import InputError
from jaxflow.models.layers import EPSILON, Layers, exact, layers_of, rms_norm
from jaxflow.models.output import EncoderOutput, Values, check_tokens, full_mask, readable
from jaxflow.models.rotary import rotate


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
    key_heads
        Heads of keys and values, each shared by a group of query heads; None is one each.
    head_width
        Width of a head; None is that of the stream divided among the heads.
    rms
        Whether norms divide by the root mean square alone, without mean and bias (RMSNorm).
    gated
        Whether the feed-forward layer is act(x G) * (x U): its first half the gate.
    biases
        Which linear layers have biases: of ``qkv``, ``out`` (attention's output) and ``mlp``.
    norm_heads
        Whether queries and keys are normalised, head by head.
    norm_branches
        Whether what a branch adds to the stream is normalised, too.
    parallel
        Whether the feed-forward layer reads the block's input, not the stream after attention.
    scale
        Factor of the scores; None is one over the root of a head's width.
    soft_cap
        Bound c of the scores, c tanh(s / c); None is none.
    sinks
        Whether a learnt score of every head joins the softmax's denominator.
    experts, chosen
        Feed-forward layers, and how many of them a token is sent to; 0 is one layer and no choice.
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
    key_heads: int | None = None
    head_width: int | None = None
    rms: bool = False
    gated: bool = False
    biases: tuple[str, ...] = ("qkv", "out", "mlp")
    norm_heads: bool = False
    norm_branches: bool = False
    parallel: bool = False
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False
    experts: int = 0
    chosen: int = 0

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.key_heads or self.heads

    @property
    def size(self) -> int:
        """Width of a head."""
        return self.head_width or self.width // self.heads


def allowed_pairs(mask: jax.Array, *, causal: bool) -> jax.Array:
    """Return which key (column) a query (row) may attend to; broadcasts to ``[B, 1, n, n]``."""
    allowed = mask[:, None, None, :]
    if causal:
        n = mask.shape[-1]
        allowed = allowed & jnp.tril(jnp.ones((n, n), bool))[None, None]
    return allowed


class Reach(NamedTuple):
    """How far back the tokens of a layer attend, in tokens; of stacked layers ``[L]``.

    A query at i sees keys after i - window, and in its own chunk of the positions alone. A number
    of at least the text's length limits nothing.
    """

    window: Any
    chunk: Any


def within(reach: Reach, queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Return which keys at positions ``[k]`` queries at positions ``[q]`` reach, ``[1, 1, q, k]``.

    Those after a query are never reached.
    """
    query, key = queries[None, None, :, None], keys[None, None, None, :]
    near = (key <= query) & (key > query - reach.window)
    return near & (key // reach.chunk == query // reach.chunk)


class Attended(NamedTuple):
    """Mixed values ``[B, H, m, d]``, weights ``[B, H, m, n]``, share of the sink ``[B, H, m]``."""

    mixed: jax.Array
    weights: Any
    sink: Any = None


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
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
) -> Attended:
    r"""Attend over the allowed keys.

    Parameters
    ----------
    query, key, value
        ``[B, H, m, d]`` and twice ``[B, G, n, d]``; a key is shared by H / G heads in a row.
    allowed
        Boolean, broadcast to ``[B, H, m, n]``.
    rate, rng
        Dropout of the weights, and its key; None for none.
    product
        The matrix product, of `jaxflow.models.layers.TRAINING` where only gradients are wanted.
    offset
        ``[B, H, m, n]``, added to the weights that mix the values, not to those returned: the
        gradient with respect to it, at 0, is that with respect to attention.
    scale, soft_cap
        As in `BlockConfig`.
    sinks
        ``[H]``, the scores of keys without a value, one of each head; None for none.

    Returns
    -------
    Attended
        The mixed values, and the weights before dropout, float32 or wider, exactly 0 wherever a key
        is not allowed. With sinks the rest of each row's sum of 1 is the sink's.

    Notes
    -----
    .. math:: \mathrm{softmax}(Q K^\top / \sqrt{d}) V
    """
    scores = score(query, key, allowed, product=product, scale=scale, soft_cap=soft_cap)
    sink = None
    if sinks is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        extra = jnp.broadcast_to(sinks[None, :, None, None], (*scores.shape[:-1], 1))
        both = jax.nn.softmax(jnp.concatenate([scores, extra.astype(scores.dtype)], -1), axis=-1)
        weights, sink = both[..., :-1], both[..., -1]
    weights = jnp.where(allowed, weights, 0)
    dropped = weights if rng is None else dropout(rng, weights, rate)
    if offset is not None:
        dropped = dropped + offset
    grouped = _grouped(dropped.astype(value.dtype), value.shape[1])
    mixed = product(grouped, value).reshape(*query.shape[:-1], value.shape[-1])
    return Attended(mixed, weights, sink)


def score(
    query: jax.Array,
    key: jax.Array,
    allowed: jax.Array,
    *,
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """Return the scores ``[B, H, m, n]`` that `attend` takes the softmax of."""
    *shape, size = query.shape
    scores = product(_grouped(query, key.shape[1]), key.mT).reshape(*shape, key.shape[-2])
    scores = scores * (size**-0.5 if scale is None else scale)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    # A finite floor keeps a row without any allowed key (a sentence of padding only) free of NaN.
    return jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)


def _grouped(values: jax.Array, groups: int) -> jax.Array:
    """Return ``[B, H, m, k]`` with the heads of a group one below the other, ``[B, G, ., k]``."""
    batch, heads, _, last = values.shape
    return values if heads == groups else values.reshape(batch, groups, -1, last)


def attend_blockwise(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    reach: Reach,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    block: int | None = None,
) -> tuple[Attended, jax.Array]:
    """Attend causally as `attend` does, block by block: the weights are never whole.

    `allowed` ``[B, 1, 1, n]`` are the real keys. Returns the mixed values, without weights, and the
    logarithms of the softmax's denominators ``[B, H, n]``, the sink's share in them.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    pattern = Pattern(True, scale, soft_cap, block or default_block(rows=False))

    def text(query: jax.Array, key: jax.Array, value: jax.Array, real: jax.Array) -> Any:
        return attend_text(pattern, query, key, value, sinks, Limits(real, *reach))

    mixed, logs = jax.vmap(text)(query, key, value, allowed[:, 0, 0])
    sink = None if sinks is None else jnp.exp(sinks[None, :, None] - logs)
    return Attended(mixed.astype(value.dtype), None, sink), logs


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


class Cache(NamedTuple):
    """Keys and values of T positions, each ``[B, G, T, d]``, filled up to `place`."""

    keys: jax.Array
    values: jax.Array
    place: Any


class Rows(NamedTuple):
    """What attention is computed from, in place of it; of stacked layers ``[B, L, ...]``.

    Queries ``[B, H, n, d]`` are as scores take them, multiplied by the scale; keys and values
    ``[B, G, n, d]``; the logarithms of the softmax's denominators ``[B, H, n]``.
    """

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    log_sums: jax.Array


class BlockOutput(NamedTuple):
    """A block's stream ``[B, n, D]``, attention ``[B, H, n, n]``, and what else was wanted.

    Values and output projection or (), the sink's share ``[B, H, n]`` or None, the cache, and
    `Rows` in place of the attention.
    """

    hidden: jax.Array
    attention: Any
    values: tuple[jax.Array, ...]
    sink: Any = None
    cache: Any = None
    rows: Any = None


class Layer(NamedTuple):
    """What a block of a decoder is given beside the stream; of stacked layers with an axis more.

    Its reach, its row in the rotary tables, `offset` ``[B, H, n, n]`` of `attend`, or of the mixed
    values ``[B, H, n, d]`` where attention is never whole, and its `Cache`.
    """

    reach: Reach
    table: Any = None
    offset: Any = None
    cache: Any = None


def normal(scale: float) -> nn.initializers.Initializer:
    """Return the initialiser that draws from a normal distribution of this deviation."""
    return nn.initializers.normal(scale)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, or RMSNorm: without the mean, and without a bias."""

    epsilon: float = EPSILON
    rms: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, layers: Layers) -> jax.Array:
        """Normalise the last axis of ``[..., D]``."""
        width = values.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        if self.rms:
            return rms_norm(values, scale, self.epsilon)
        bias = self.param("bias", nn.initializers.zeros, width)
        return layers.layer_norm(values, scale, bias, self.epsilon)


class Experts(nn.Module):
    """A mixture of gated feed-forward layers, each token's output that of its best experts."""

    config: BlockConfig

    @nn.compact
    def __call__(self, read: jax.Array) -> jax.Array:
        """Return ``[B, n, D]`` of the branch's input ``[B, n, D]``."""
        config, draw, zeros = self.config, normal(0.02), nn.initializers.zeros
        count, width, hidden = config.experts, config.width, config.hidden_width
        logits = nn.Dense(count, kernel_init=draw, name="router")(read)  # [B, n, E]
        weights = (
            self.param("up_kernel", draw, (count, width, 2 * hidden)),
            self.param("up_bias", zeros, (count, 2 * hidden)),
            self.param("down_kernel", draw, (count, hidden, width)),
            self.param("down_bias", zeros, (count, width)),
        )
        return mixture(read, logits, config.chosen, weights)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the stream."""

    config: BlockConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        # With pre-LayerNorm, GPT-2 scales the layers that add to the stream by their number.
        scale = 0.02 / (2 * config.layers) ** 0.5 if config.norm_first else 0.02

        def dense(width: int, kind: str, deviation: float = 0.02) -> nn.Dense:
            return nn.Dense(width, kind in config.biases, kernel_init=normal(deviation))

        def norm() -> LayerNorm:
            return LayerNorm(config.epsilon, config.rms)

        self.norm_attention = norm()
        self.qkv = dense((config.heads + 2 * config.groups) * config.size, "qkv")
        self.attention_out = dense(config.width, "out", scale)
        self.norm_feed_forward = norm()
        if config.experts:
            self.experts = Experts(config)
        else:
            self.up = dense((1 + config.gated) * config.hidden_width, "mlp")
            self.down = dense(config.width, "mlp", scale)
        if config.norm_heads:
            self.norm_query, self.norm_key = norm(), norm()
        if config.norm_branches:
            self.norm_attention_out, self.norm_feed_forward_out = norm(), norm()
        if config.sinks:
            self.sinks = self.param("sinks", normal(0.02), (config.heads,))

    def _drop(self, values: jax.Array, train: bool) -> jax.Array:
        rate = self.config.dropout
        return dropout(self.make_rng("dropout"), values, rate) if train and rate else values

    @exact
    def __call__(
        self,
        stream: jax.Array,
        allowed: jax.Array,
        train: bool = False,
        readers: int | None = None,
        with_values: bool = False,
        offset: jax.Array | None = None,
        layer: Layer | None = None,
        tables: Any = None,
        wants_rows: bool = False,
    ) -> tuple[jax.Array, BlockOutput]:
        """Return the stream ``[B, n, D]``, and it with the attention (the form that a scan needs).

        With `readers` only the first so many queries: ``[B, m, D]`` and ``[B, H, m, n]``. `layer`
        and the rotary `tables`, cosine and sine ``[K, n, r/2]``, are those of a decoder, and with
        `wants_rows` its attention is never whole: `Rows` are returned in its place.
        """
        config, layers = self.config, layers_of(train)
        first, last = config.norm_first, not config.norm_first
        before = stream[:, :readers]
        read = self.norm_attention(stream, layers) if first else stream
        found, value, cache, rows = self._attend(
            read, allowed, train, readers, offset, layer, tables, wants_rows
        )
        written = self.attention_out(found.mixed)
        if config.norm_branches:
            written = self.norm_attention_out(written, layers)
        stream = before + self._drop(written, train)  # [B, m, D]
        if last:
            stream = self.norm_attention(stream, layers)

        read = before if config.parallel else stream
        written = self._feed_forward(
            self.norm_feed_forward(read, layers) if first else read, layers
        )
        if config.norm_branches:
            written = self.norm_feed_forward_out(written, layers)
        stream = stream + self._drop(written, train)
        if last:
            stream = self.norm_feed_forward(stream, layers)
        values: tuple[jax.Array, ...] = ()
        if with_values:  # of grouped heads each head's own copy
            repeated = jnp.repeat(value, config.heads // config.groups, 1)
            values = (repeated, *self._projection())
        return stream, BlockOutput(stream, found.weights, values, found.sink, cache, rows)

    def _feed_forward(self, read: jax.Array, layers: Layers) -> jax.Array:
        config = self.config
        if config.experts:
            return self.experts(read)
        expanded, activation = self.up(read), layers.activation(config.activation)
        if config.gated:
            gate, linear = jnp.split(expanded, 2, axis=-1)
            return self.down(activation(gate) * linear)
        return self.down(activation(expanded))  # [B, m, hidden width]

    def _attend(
        self,
        read: jax.Array,
        allowed: jax.Array,
        train: bool,
        readers: int | None,
        offset: jax.Array | None,
        layer: Layer | None,
        tables: Any,
        wants_rows: bool,
    ) -> tuple[Attended, jax.Array, Any, Any]:
        """Return what attention found, the values ``[B, G, n, d]``, the cache and the rows.

        The mixed values are ``[B, m, H d]``.
        """
        config, layers = self.config, layers_of(train)
        batch, n, _ = read.shape
        rate, size = config.attention_dropout, config.size
        fused = self.qkv(read)  # [B, n, (H + 2 G) d]
        ends = [config.heads * size, (config.heads + config.groups) * size]
        query, key, value = (
            part.reshape(batch, n, -1, size).transpose(0, 2, 1, 3)
            for part in jnp.split(fused, ends, axis=-1)
        )  # [B, H, n, d] and twice [B, G, n, d]
        if config.norm_heads:
            query, key = self.norm_query(query, layers), self.norm_key(key, layers)
        cache, start = None, 0
        if layer is not None:
            if tables is not None:
                turns = [jnp.take(table, layer.table, axis=0) for table in tables]
                query, key = rotate(query, *turns), rotate(key, *turns)
            if layer.cache is not None:
                start = layer.cache.place
                cache = layer.cache._replace(
                    keys=jax.lax.dynamic_update_slice(layer.cache.keys, key, (0, 0, start, 0)),
                    values=jax.lax.dynamic_update_slice(
                        layer.cache.values, value, (0, 0, start, 0)
                    ),
                )
                key, value = cache.keys, cache.values
            offset = layer.offset
        more: dict[str, Any] = {
            "scale": config.scale,
            "soft_cap": config.soft_cap,
            "sinks": self.sinks if config.sinks else None,
        }
        if wants_rows:
            assert layer is not None
            found, log_sums = attend_blockwise(query, key, value, allowed, layer.reach, **more)
            scale = size**-0.5 if config.scale is None else config.scale
            rows = Rows(query * scale, key, value, log_sums)
            mixed = found.mixed if offset is None else found.mixed + offset
            return found._replace(mixed=_joined(mixed)), value, None, rows
        if layer is not None:
            places = start + jnp.arange(n), jnp.arange(key.shape[-2])
            allowed = allowed & within(layer.reach, *places)
        rng = self.make_rng("dropout") if train and rate else None
        allowed = allowed[:, :, :readers]  # its axis of queries may have length 1
        query, product = query[:, :, :readers], layers.product
        found = attend(
            query, key, value, allowed, rate=rate, rng=rng, product=product, offset=offset, **more
        )
        return found._replace(mixed=_joined(found.mixed)), value, cache, None

    def _projection(self) -> tuple[jax.Array, jax.Array]:
        """Return the output projection by head, ``[H, d, D]``, and its bias ``[D]``."""
        params = self.attention_out.variables["params"]
        heads, width = self.config.heads, self.config.width
        kernel = params["kernel"].reshape(heads, -1, width)
        return kernel, params.get("bias", jnp.zeros(width, kernel.dtype))


def _joined(mixed: jax.Array) -> jax.Array:
    """Return ``[B, H, m, d]`` as ``[B, m, H d]``."""
    batch, _, rows, _ = mixed.shape
    return mixed.transpose(0, 2, 1, 3).reshape(batch, rows, -1)


class Trunk(NamedTuple):
    """The output of a stack of blocks: fields as in `EncoderOutput`, `stream` the last block's.

    With ``readers`` the stream is of that many tokens, and attention and hidden are None. `cache`
    has keys and values ``[L, B, G, T, d]``, `rows` is `Rows`.
    """

    stream: jax.Array
    attention: Any
    hidden: Any
    values: Values | None
    sink: Any = None
    cache: Any = None
    rows: Any = None


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
        in_axes=(*[nn.broadcast] * 5, 0, nn.broadcast, nn.broadcast),
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
    *,
    layers: Layer | None = None,
    tables: Any = None,
    wants_rows: bool = False,
) -> Trunk:
    """Run a stream ``[B, n, D]`` through all blocks.

    `readers` is how many first tokens of the last block are wanted; None wants all. Blocks in one
    loop are for inference, not for training. `offsets` ``[B, L, H, n, n]`` are those of `attend`,
    and `layers`, of stacked layers, has them for blocks in one loop.
    """
    if isinstance(blocks, nn.Module):
        if offsets is not None:
            raise InputError("offsets must be None for a model whose blocks are one loop")
        last, found = blocks(
            stream, allowed, False, None, with_values, None, layers, tables, wants_rows
        )
        if readers is not None:
            return Trunk(last[:, :readers], None, None, None)
        hidden = jnp.concatenate([stream[None], found.hidden]).swapaxes(0, 1)
        attention, sink, rows = jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1), (found.attention, found.sink, found.rows)
        )
        values = None
        if with_values:
            values = Values(found.values[0].swapaxes(0, 1), *found.values[1:])
        return Trunk(last, attention, hidden, values, sink, found.cache, rows)

    outputs: list[BlockOutput] = []
    last = stream
    for place, block in enumerate(blocks):
        wanted = readers if place == len(blocks) - 1 else None
        offset = None if offsets is None else offsets[:, place]
        layer = jax.tree.map(lambda leaf, at=place: leaf[at], layers)
        last, found = block(last, allowed, train, wanted, with_values, offset, layer, tables)
        outputs.append(found)
    if readers is not None:
        return Trunk(last, None, None, None)
    values = None
    if with_values:
        vectors, kernels, biases = zip(*(found.values for found in outputs), strict=True)
        values = Values(jnp.stack(vectors, 1), jnp.stack(kernels), jnp.stack(biases))
    caches = [found.cache for found in outputs]
    return Trunk(
        last,
        jnp.stack([found.attention for found in outputs], 1),
        jnp.stack([stream, *(found.hidden for found in outputs)], 1),
        values,
        cache=jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches),
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
        return EncoderOutput(
            logits, trunk.attention, trunk.hidden, pooled, trunk.values, trunk.sink
        )

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
