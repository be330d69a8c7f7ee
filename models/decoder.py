"""Define the decoders people run: Llama, Qwen, Mistral, Phi, Gemma, gpt-oss and GPT-NeoX.

One module serves all: `DecoderConfig` names the switches in which they differ, and
`jaxflow.models.decoder_files` which model has which. Blocks are stacked along a first axis of
layers and run as one loop.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxflow._rows import QueryKey
from jaxflow.errors import InputError
from jaxflow.models.blocks import (
    BlockConfig,
    Cache,
    Layer,
    LayerNorm,
    Reach,
    Transformer,
    Trunk,
    allowed_pairs,
    make_blocks,
    normal,
    run_blocks,
)
from jaxflow.models.config import LARGEST, ConfigRecord, Head, Problem, check_config
from jaxflow.models.layers import exact, layers_of
from jaxflow.models.output import at_last_real, at_least_float32, full_mask
from jaxflow.models.rotary import Rotary

DecoderKind = Literal[
    "llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3_text", "gpt_oss", "gpt_neox"
]
LayerKind = Literal["full", "window", "chunk"]


@dataclasses.dataclass(frozen=True, repr=False)
class DecoderConfig(ConfigRecord):
    """Sizes and switches of a `Decoder`; the defaults are a Llama's.

    Attributes
    ----------
    kind
        The ``model_type`` whose files it is read from and written to.
    head
        ``lm``, ``classification`` or ``none``.
    vocabulary, positions
        Word pieces, and longest input in tokens.
    layers, heads, width, hidden_width
        Blocks, query heads a block, width of the stream and of the feed-forward layer.
    key_heads, head_width
        Heads of keys and values, which divide the query heads into groups; width of each head.
    labels, problem
        The classes' names, and what they were trained for, as in `BertConfig`.
    activation, epsilon
        Of the feed-forward layers, by the name in published configurations; of the norms.
    rms, gated, biases, norm_heads, norm_branches, parallel, scale, soft_cap, sinks, experts, chosen
        Switches of the block, as in `BlockConfig`.
    rotary
        The rotary positions of all layers, or of full ones and of those with a window.
    reaches
        What each layer's tokens attend to: ``full``, all before them; ``window``, the last of
        these; ``chunk``, those in the same chunk of the positions. Empty is full everywhere.
    window, chunk
        Tokens of a window, the query's own among them, and of a chunk.
    logit_cap
        Bound c of the logits of the next token, c tanh(z / c); None is none.
    scaled_words
        Whether word embeddings are multiplied by the root of their width.
    tied
        Whether the head's kernel is the word embeddings.
    pad_id, pad_is_end
        As in `Gpt2Config`.
    end_ids
        Tokens that end an answer.
    """

    kind: DecoderKind = "llama"
    head: Head = "lm"
    vocabulary: int = 32_000
    positions: int = 2048
    layers: int = 32
    heads: int = 32
    key_heads: int = 32
    head_width: int = 128
    width: int = 4096
    hidden_width: int = 11_008
    labels: tuple[str, ...] = ()
    problem: Problem | None = None
    activation: str = "silu"
    epsilon: float = 1e-6
    rms: bool = True
    gated: bool = True
    biases: tuple[str, ...] = ()
    norm_heads: bool = False
    norm_branches: bool = False
    parallel: bool = False
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False
    experts: int = 0
    chosen: int = 0
    rotary: tuple[Rotary, ...] = (Rotary(128),)
    reaches: tuple[LayerKind, ...] = ()
    window: int | None = None
    chunk: int | None = None
    logit_cap: float | None = None
    scaled_words: bool = False
    tied: bool = False
    pad_id: int | None = None
    pad_is_end: bool = False
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_config(self, ("none", "classification", "lm"))
        if self.heads % self.key_heads:
            raise InputError(
                f"heads must be a multiple of key_heads, got {self.heads} on {self.key_heads}"
            )
        if self.reaches and len(self.reaches) != self.layers:
            raise InputError(
                f"reaches must name each of {self.layers} layers, got {len(self.reaches)} names"
            )
        for name in ("window", "chunk"):
            size = getattr(self, name)
            if name in self.reaches and not (isinstance(size, int) and size > 0):
                raise InputError(f"{name} must be a number of tokens, got {size!r}")
        if any(each.width > self.head_width for each in self.rotary):
            raise InputError(f"rotary positions must be of at most {self.head_width} numbers")
        if not 0 <= self.chosen <= self.experts or bool(self.experts) != bool(self.chosen):
            raise InputError(
                f"chosen must be from 1 to {self.experts} of the experts, got {self.chosen}"
            )

    @property
    def reads_last(self) -> bool:
        """Return True: classes are computed from the last real token."""
        return True

    @property
    def causal(self) -> bool:
        """Return True: a token attends only to itself and those before it."""
        return True

    @property
    def block(self) -> BlockConfig:
        """The blocks' configuration."""
        shared = {field.name for field in dataclasses.fields(BlockConfig)} & {
            field.name for field in dataclasses.fields(self)
        }
        given = {name: getattr(self, name) for name in shared}
        return BlockConfig(**given, dropout=0.0, attention_dropout=0.0)

    def reach(self) -> Reach:
        """Return each layer's window and chunk in tokens, ``[L]``; `LARGEST` limits nothing."""
        kinds = self.reaches or ("full",) * self.layers
        windows = [self.window if kind == "window" else LARGEST for kind in kinds]
        chunks = [self.chunk if kind == "chunk" else LARGEST for kind in kinds]
        return Reach(jnp.array(windows), jnp.array(chunks))

    def tables(self, n: int) -> tuple[jax.Array, jax.Array]:
        """Return cosine and sine of n positions, ``[K, n, r/2]`` for K kinds of layers."""
        cosine, sine = zip(*(rotary.table(n) for rotary in self.rotary), strict=True)
        return jnp.stack(cosine), jnp.stack(sine)

    def rows_of_tables(self) -> jax.Array:
        """Return each layer's row in the rotary tables, ``[L]``."""
        local = len(self.rotary) > 1
        kinds = [int(local and kind == "window") for kind in self.reaches]
        return jnp.array(kinds or [0] * self.layers)


@flax.struct.dataclass
class QueriesKeys:
    """What a decoder's attention is computed from, where its matrices would be too large.

    Query i of layer l and head h attends to keys j from ``max(0, i - window[l] + 1)`` to i, in the
    same chunk (``i // chunk[l] == j // chunk[l]``) and real in the mask, with

    ``weight = exp(cap(queries[l, h, i] @ keys[l, h // (H / G), j]) - log_sums[l, h, i])``

    where ``cap(s)`` is s, or ``soft_cap * tanh(s / soft_cap)``.

    Attributes
    ----------
    queries
        ``[B, L, H, n, d]``, normalised and rotated, multiplied by the scale of the scores.
    keys, values
        ``[B, L, G, n, d]``, keys normalised and rotated.
    log_sums
        ``[B, L, H, n]``, the logarithms of the softmax's denominators, those of sinks included.
    sink
        ``[B, L, H, n]``, the share of the sink; None without sinks.
    window, chunk
        ``[L]``, in tokens; larger than n where a layer has none.
    mask
        ``[B, n]`` boolean, True at real tokens.
    hidden
        ``[B, L + 1, n, D]``: the input of the first block, then the output of each block.
    logits
        As `EncoderOutput` has them.
    soft_cap
        Bound of the scores; None is none.
    gradients
        ``[B, L, H, n, d]``, of what is explained with respect to each head's mixed values; that of
        a weight is ``gradients[l, h, i] @ values[l, h // (H / G), j]``. None where none was asked.
    """

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    log_sums: jax.Array
    sink: jax.Array | None
    window: jax.Array
    chunk: jax.Array
    mask: jax.Array
    hidden: jax.Array
    logits: Any
    soft_cap: float | None = flax.struct.field(pytree_node=False, default=None)
    gradients: Any = None

    def layers(self, *, sinks: bool = True, projection: Any = None) -> list[Any]:
        """Return functions for the layers, bottom to top, as `jaxflow.rollout_rows` takes them.

        Without `sinks` attention is that over tokens alone, each row divided by what the sink left.
        `projection` ``[L, H, d, D]`` is that of the attention's output, for norms.
        """
        given = {"sinks": sinks, "projection": projection}
        return [partial(self._layer, place, **given) for place in range(self.queries.shape[1])]

    def _layer(self, place: int, *, sinks: bool, projection: Any) -> QueryKey:
        n = self.mask.shape[-1]
        more: dict[str, Any] = {}
        for name in ("window", "chunk"):
            size = getattr(self, name)[place]
            if isinstance(size, jax.core.Tracer):
                more[name] = size
            elif size < n:
                more[name] = int(size)
        for name in ("values", "gradients"):
            if (array := getattr(self, name)) is not None:
                more[name] = array[:, place]
        if projection is not None:
            more["projection"] = projection[place]
        if self.sink is None or sinks:
            more["normalisers"] = self.log_sums[:, place]
        if self.sink is not None and sinks:  # the same logit for every query
            more["sinks"] = jnp.log(self.sink[0, place, :, 0]) + self.log_sums[0, place, :, 0]
        queries, keys = self.queries[:, place], self.keys[:, place]
        return QueryKey(queries, keys, causal=True, scale=1.0, soft_cap=self.soft_cap, **more)


class Decoder(Transformer):
    """A causal decoder; `embed` and `encode` are its halves, as in `AgreementEncoder`.

    Logits are ``[B, n, V]`` of the token after each, or ``[B, C]`` of the classes, computed from
    the last real token, which ``pooled`` is then; the last hidden state is that before the closing
    norm. With sinks ``sink`` is the share of each row that went there.
    """

    config: DecoderConfig

    def setup(self) -> None:
        """Name the parameters."""
        config, draw = self.config, normal(0.02)
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=draw)
        self.blocks = make_blocks(config.block, True)
        self.norm = LayerNorm(config.epsilon, config.rms)
        if config.head == "classification":
            self.readout = nn.Dense(config.classes, use_bias=False, kernel_init=draw)
        if config.head == "lm" and not config.tied:
            self.decoder = self.param("decoder", draw, (config.vocabulary, config.width))

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return the word embeddings ``[B, n, D]`` of ``[B, n]``, as they enter the first block."""
        embedded: jax.Array = self.word(tokens)
        if self.config.scaled_words:
            embedded = embedded * jnp.asarray(self.config.width**0.5, embedded.dtype)
        return embedded

    def queries_keys(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        offsets: jax.Array | None = None,
        shift: jax.Array | float = 0.0,
    ) -> QueriesKeys:
        """Return what attention is computed from, without any ``[n, n]`` matrix in memory.

        `offsets` ``[B, L, H, n, d]`` are added to each head's mixed values, `shift` ``[B, n, D]``
        to the word embeddings.
        """
        tokens, mask = self._checked(tokens, mask)
        embeddings = self.embed(tokens) + shift
        mask = full_mask(embeddings, mask, self.config.positions)
        trunk = self._run(embeddings, mask, False, offsets=offsets, wants_rows=True)
        logits, _ = self._classify(trunk.stream, self._readable(mask, tokens), False)
        reach = self.config.reach()
        return QueriesKeys(  # type: ignore[call-arg]
            *trunk.rows, trunk.sink, *reach, mask, trunk.hidden, logits, self.config.soft_cap
        )

    def step(self, tokens: jax.Array, mask: jax.Array, cache: Cache) -> tuple[Any, Any, Cache]:
        """Continue a text by tokens ``[B, m]``, given keys and values ``[L, B, G, T, d]`` so far.

        `mask` ``[B, T]`` is False at padding; T is the length of the finished text, on which rotary
        positions may depend. Returns the logits ``[B, V]`` after the last of the tokens, their
        attention ``[B, L, H, m, T]`` and the cache with them in it.
        """
        place = cache.place[0]
        tables = [
            jax.lax.dynamic_slice_in_dim(table, place, tokens.shape[1], 1)
            for table in self.config.tables(mask.shape[-1])
        ]
        trunk = self._run(self.embed(tokens), mask, False, tables=tables, cache=cache)
        logits: Any = self._classify(trunk.stream[:, -1:], mask, False)[0]
        moved = trunk.cache._replace(place=cache.place + tokens.shape[1])
        return logits[:, -1], trunk.attention, moved

    def _run(
        self,
        embeddings: jax.Array,
        mask: jax.Array,
        train: bool,
        readers: int | None = None,
        values: bool = False,
        offsets: jax.Array | None = None,
        *,
        tables: Any = None,
        cache: Cache | None = None,
        wants_rows: bool = False,
        **inputs: Any,
    ) -> Trunk:
        config = self.config
        if train:
            raise InputError("train must be False for this model: decoders are not trained here")
        if inputs.get("token_types") is not None:
            raise InputError("token_types must be None for a model without segments")
        layers = Layer(
            config.reach(),
            config.rows_of_tables(),
            None if offsets is None else offsets.swapaxes(0, 1),
            cache,
        )
        tables = config.tables(embeddings.shape[1]) if tables is None else tables
        return run_blocks(
            self.blocks,
            embeddings,
            allowed_pairs(mask, causal=False),
            readers=readers,
            with_values=values,
            layers=layers,
            tables=tuple(tables),
            wants_rows=wants_rows,
        )

    @exact
    def _classify(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array | None, jax.Array | None]:
        config = self.config
        if config.head == "lm":
            normed = self.norm(stream, layers_of(train))  # [B, n, D]
            table = self.word.embedding if config.tied else self.decoder
            logits = at_least_float32(normed @ table.T)
            if config.logit_cap is not None:
                logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
            return logits, None
        pooled = self.norm(at_last_real(stream, mask), layers_of(train))  # [B, D]
        if config.head == "none":
            return None, pooled
        return at_least_float32(self.readout(pooled)), pooled
