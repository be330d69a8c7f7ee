"""BERT, DistilBERT and RoBERTa: one encoder, with classes, masked tokens or nothing read off it.

The three differ in their embeddings alone (segments or none, positions counted from 0 or from
behind the padding's number) and in the activation of what the classes are read off.

Devlin et al., BERT, NAACL 2019; Sanh et al., DistilBERT, 2019; Liu et al., RoBERTa, 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import allowed_pairs, dropout
from jaxflow.models.blocks import (
    BlockConfig,
    LayerNorm,
    Trunk,
    make_blocks,
    normal,
    run_blocks,
)
from jaxflow.models.config import (
    ConfigRecord,
    Head,
    check_heads,
    check_labels,
    check_pad_id,
    check_rates,
    check_sizes,
)
from jaxflow.models.inputs import check_tokens, full_mask
from jaxflow.models.layers import PLAIN, TRAINING, Layers
from jaxflow.models.output import EncoderOutput, at_least_float32

__all__ = ["Bert", "BertConfig"]

Kind = Literal["bert", "distilbert", "roberta"]


@dataclasses.dataclass(frozen=True)
class BertConfig(ConfigRecord):
    """Sizes of a `Bert`; the defaults are BERT-base's.

    Attributes
    ----------
    kind
        ``bert``, ``distilbert`` or ``roberta``.
    head
        ``classification``, ``masked-lm`` or ``none``.
    vocabulary, positions, token_types
        Word pieces, longest input in tokens, and kinds of segments; no segments (0) in DistilBERT.
    layers, heads, width, hidden_width
        Blocks, heads a block, width of the stream and of the feed-forward layer.
    labels
        The classes' names; empty without a classification head.
    activation, epsilon
        Of the feed-forward layers, by the name in published configurations; of the norms.
    dropout, attention_dropout, readout_dropout
        Rates while training: embeddings and branches, attention weights, what classes are read off.
    pooler
        Whether ``pooled`` is worked out where there is no classification head.
    tied
        Whether the masked tokens are read off with the word embeddings.
    pad_id
        The padding token's number.
    """

    kind: Kind = "bert"
    head: Head = "none"
    vocabulary: int = 30_522
    positions: int = 512
    token_types: int = 2
    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden_width: int = 3072
    labels: tuple[str, ...] = ()
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    readout_dropout: float = 0.1
    pooler: bool = False
    tied: bool = True
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("bert", "distilbert", "roberta"):
            raise InputError(f"kind must be bert, distilbert or roberta, got {self.kind!r}")
        if self.head not in ("none", "classification", "masked-lm"):
            raise InputError(f"head must be none, classification or masked-lm, got {self.head!r}")
        sizes = ("vocabulary", "positions", "layers", "heads", "width", "hidden_width")
        check_sizes(self, *sizes)
        check_heads(self)
        check_rates(self, "dropout", "attention_dropout", "readout_dropout")
        if (self.token_types == 0) != (self.kind == "distilbert") or self.token_types < 0:
            raise InputError(f"token_types must be 0 in distilbert alone, got {self.token_types}")
        check_labels(self)
        check_pad_id(self)

        if self.pooler and self.head != "none":
            raise InputError("pooler must be False for a model with a head, got True")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def first_position(self) -> int:
        """Where the table of positions begins to be used: RoBERTa counts from behind padding."""
        return self.pad_id + 1 if self.kind == "roberta" else 0

    @property
    def block(self) -> BlockConfig:
        """The blocks' configuration."""
        return BlockConfig(
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            hidden_width=self.hidden_width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=self.activation,
            epsilon=self.epsilon,
            norm_first=False,
        )


class MaskedReadout(nn.Module):
    """Reads a vocabulary's logits off every token."""

    config: BertConfig

    @nn.compact
    def __call__(self, stream: jax.Array, table: jax.Array, layers: Layers) -> jax.Array:
        """Return ``[B, n, V]`` of the stream ``[B, n, D]`` and the word embeddings ``[V, D]``."""
        config = self.config
        # RoBERTa's authors fixed the activation here.
        activation = "gelu" if config.kind == "roberta" else config.activation
        read = nn.Dense(config.width, kernel_init=normal(0.02), name="dense")(stream)
        read = LayerNorm(config.epsilon, name="norm")(layers.activation(activation)(read), layers)
        if not config.tied:
            table = self.param("decoder", normal(0.02), table.shape)
        bias = self.param("bias", nn.initializers.zeros, table.shape[:1])
        return read @ table.T + bias[None, None]


class Bert(nn.Module):
    """A post-LayerNorm encoder; `encode` and `embed` are its halves, as in `AgreementEncoder`."""

    config: BertConfig
    rolled: bool = False

    def setup(self) -> None:
        """Name the parameters."""
        config, draw = self.config, normal(0.02)
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=draw)
        rows = config.positions + config.first_position
        self.position = self.param("position", draw, (rows, config.width))
        if config.token_types:
            self.token_type = self.param("token_type", draw, (config.token_types, config.width))
        self.norm = LayerNorm(config.epsilon)
        self.blocks = make_blocks(config.block, self.rolled)
        if config.head == "classification" or config.pooler:
            self.pooler = nn.Dense(config.width, kernel_init=draw)
        if config.head == "classification":
            self.readout = nn.Dense(config.classes, kernel_init=draw)
        if config.head == "masked-lm":
            self.masked = MaskedReadout(config)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        token_types: jax.Array | None = None,
        values: bool = False,
    ) -> EncoderOutput:
        """Encode, and read off what the head reads.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, special tokens included.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding.
        train
            Whether to drop out; needs a ``dropout`` key in ``rngs``.
        token_types
            ``[B, n]`` whole numbers, the segments; None is 0 everywhere.
        values
            Whether to return value vectors and output projections too.

        Returns
        -------
        EncoderOutput
            Logits of the head, attention and hidden states; ``pooled`` where there is a pooler.

        Raises
        ------
        InputError
            If a shape or dtype is wrong or there are more tokens than positions.
        """
        tokens, mask = check_tokens(tokens, mask, self.config.pad_id)
        positions = self._positions(tokens != self.config.pad_id)
        return self._read(self.embed(tokens), mask, train, token_types, positions, values)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Look the words up: ``[B, n]`` to ``[B, n, D]``, nothing added or normalised yet."""
        return self.word(tokens)

    def encode(
        self,
        embeddings: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        token_types: jax.Array | None = None,
        values: bool = False,
        offsets: jax.Array | None = None,
    ) -> EncoderOutput:
        """Encode word embeddings ``[B, n, D]``; without a mask all are real.

        `offsets`, ``[B, L, H, n, n]``, are added to the attention that mixes values.
        """
        mask = full_mask(embeddings, mask, self.config.positions)
        positions = self._positions(mask)
        return self._read(embeddings, mask, train, token_types, positions, values, offsets)

    def classify(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        token_types: jax.Array | None = None,
    ) -> jax.Array:
        """Return the logits alone; classes at less cost, being read off the first token."""
        tokens, mask = check_tokens(tokens, mask, self.config.pad_id)
        positions = self._positions(tokens != self.config.pad_id)
        readers = 1 if self.config.head == "classification" else None
        embeddings = self.embed(tokens)
        trunk = self._run(embeddings, mask, train, token_types, positions, readers)
        logits: Any = self._head(trunk.stream, train)[0]
        return logits

    def _positions(self, real: jax.Array) -> jax.Array:
        """Return the positions' numbers, to broadcast to ``[B, n]``."""
        if self.config.kind != "roberta":
            return jnp.arange(real.shape[-1])[None]
        return jnp.cumsum(real, -1) * real + self.config.pad_id

    def _read(
        self,
        embeddings: jax.Array,
        mask: Any,
        train: bool,
        token_types: Any,
        positions: jax.Array,
        values: bool,
        offsets: jax.Array | None = None,
    ) -> EncoderOutput:
        trunk = self._run(embeddings, mask, train, token_types, positions, None, values, offsets)
        logits, pooled = self._head(trunk.stream, train)
        return EncoderOutput(logits, trunk.attention, trunk.hidden, pooled, trunk.values)

    def _run(
        self,
        embeddings: jax.Array,
        mask: Any,
        train: bool,
        token_types: Any,
        positions: jax.Array,
        readers: int | None,
        with_values: bool = False,
        offsets: jax.Array | None = None,
    ) -> Trunk:
        config, layers = self.config, TRAINING if train else PLAIN
        mask = full_mask(embeddings, mask, config.positions)
        stream = embeddings + self.position[positions]
        if config.token_types:
            types = jnp.zeros((1, 1), jnp.int32) if token_types is None else token_types
            if token_types is not None and types.shape != mask.shape:
                raise InputError(f"token_types must be of shape {mask.shape}, got {types.shape}")
            stream = stream + self.token_type[types]
        elif token_types is not None:
            raise InputError("token_types must be None: DistilBERT knows no segments")
        stream = self.norm(stream, layers)
        if train and config.dropout:
            stream = dropout(self.make_rng("dropout"), stream, config.dropout)
        allowed = allowed_pairs(mask, causal=False)
        return run_blocks(self.blocks, stream, allowed, train, readers, with_values, offsets)

    def _head(self, stream: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array | None]:
        """Return logits and what they are read off."""
        config = self.config
        if config.head == "masked-lm":
            table = self.word.embedding
            logits = self.masked(stream, table, TRAINING if train else PLAIN)
            return at_least_float32(logits), None
        if config.head == "none" and not config.pooler:
            return None, None
        squash = jax.nn.relu if config.kind == "distilbert" else jnp.tanh
        pooled = squash(self.pooler(stream[:, 0]))  # [B, D], of the first token
        if config.head == "none":
            return None, pooled
        read = pooled
        if train and config.readout_dropout:
            read = dropout(self.make_rng("dropout"), read, config.readout_dropout)
        return at_least_float32(self.readout(read)), pooled
