"""Define BERT, DistilBERT and RoBERTa: one encoder with a classification, masked-LM or no head.

The three differ in their embeddings alone (segments or none, positions counted from 0 or from the
padding's number) and in the activation of the vector that classes are computed from.

Devlin et al., BERT, NAACL 2019; Sanh et al., DistilBERT, 2019; Liu et al., RoBERTa, 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.blocks import LayerNorm, Transformer, make_blocks, normal
from jaxflow.models.config import ConfigRecord, Head, Problem, check_config
from jaxflow.models.layers import Layers, exact, layers_of
from jaxflow.models.output import at_least_float32

Kind = Literal["bert", "distilbert", "roberta"]


@dataclasses.dataclass(frozen=True, repr=False)
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
    problem
        ``single-label``, ``multi-label`` or ``regression``, what the classes were trained for;
        None is the last for one class, else the first.
    activation, epsilon
        Of the feed-forward layers, by the name in published configurations; of the norms.
    dropout, attention_dropout, readout_dropout
        Rates while training: embeddings and branches, attention weights, classifier input.
    pooler
        Whether ``pooled`` is computed where there is no classification head.
    tied
        Whether masked tokens are predicted with the word embeddings.
    pad_id
        The padding token's number; None where there is none, and every token is real.
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
    problem: Problem | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    readout_dropout: float = 0.1
    pooler: bool = False
    tied: bool = True
    pad_id: int | None = 0

    def __post_init__(self) -> None:
        if self.kind not in ("bert", "distilbert", "roberta"):
            raise InputError(f"kind must be bert, distilbert or roberta, got {self.kind!r}")
        check_config(self, ("none", "classification", "masked-lm"))
        if (self.token_types == 0) != (self.kind == "distilbert") or self.token_types < 0:
            raise InputError(f"token_types must be 0 in distilbert alone, got {self.token_types}")
        if self.kind == "roberta" and self.pad_id is None:
            raise InputError("pad_id must be a number: RoBERTa counts positions from it")
        if self.pooler and self.head != "none":
            raise InputError("pooler must be False for a model with a head, got True")

    @property
    def norm_first(self) -> bool:
        """Whether blocks are pre-LayerNorm: they are post-LayerNorm."""
        return False

    @property
    def first_position(self) -> int:
        """First row of the position table in use: after the padding's number in RoBERTa."""
        return (self.pad_id or 0) + 1 if self.kind == "roberta" else 0


class MaskedReadout(nn.Module):
    """The head that predicts masked tokens: a vocabulary's logits for every token."""

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


class Bert(Transformer):
    """A post-LayerNorm encoder; `embed` and `encode` are its halves, as in `AgreementEncoder`.

    Logits are ``[B, C]`` of the classes or ``[B, n, V]`` of the masked tokens; ``pooled`` is there
    where there is a pooler. Embeddings are normalised after positions and segments are added.
    """

    config: BertConfig

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

    @property
    def _reads_first(self) -> bool:
        return self.config.head == "classification"

    def _begin(
        self,
        embeddings: jax.Array,
        mask: jax.Array,
        train: bool,
        *,
        tokens: Any = None,
        token_types: Any = None,
    ) -> jax.Array:
        config = self.config
        stream = embeddings + self.position[self._positions(mask, tokens)]
        if config.token_types:
            types = jnp.zeros((1, 1), jnp.int32) if token_types is None else token_types
            if token_types is not None and types.shape != mask.shape:
                raise InputError(f"token_types must be of shape {mask.shape}, got {types.shape}")
            stream = stream + self.token_type[types]
        elif token_types is not None:
            raise InputError("token_types must be None for a model without segments")
        return self._drop(self.norm(stream, layers_of(train)), train, config.dropout)

    def _positions(self, mask: jax.Array, tokens: Any) -> jax.Array:
        """Return the positions' numbers, to broadcast to ``[B, n]``."""
        if self.config.kind != "roberta":
            return jnp.arange(mask.shape[-1])[None]
        real = mask if tokens is None else tokens != self.config.pad_id
        return jnp.cumsum(real, -1) * real + self.config.first_position - 1

    @exact
    def _classify(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array | None, jax.Array | None]:
        config = self.config
        if config.head == "masked-lm":
            logits = self.masked(stream, self.word.embedding, layers_of(train))
            return at_least_float32(logits), None
        if config.head == "none" and not config.pooler:
            return None, None
        squash = jax.nn.relu if config.kind == "distilbert" else jnp.tanh
        pooled = squash(self.pooler(stream[:, 0]))  # [B, D], of the first token
        if config.head == "none":
            return None, pooled
        read = self._drop(pooled, train, config.readout_dropout)
        return at_least_float32(self.readout(read)), pooled
