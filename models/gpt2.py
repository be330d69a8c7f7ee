"""GPT-2: a causal stack of pre-LayerNorm blocks that reads the next tokens, or classes, off.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import allowed_pairs, dropout
from jaxflow.models.blocks import BlockConfig, LayerNorm, make_blocks, normal, run_blocks
from jaxflow.models.config import (
    ConfigRecord,
    Head,
    check_heads,
    check_labels,
    check_pad_id,
    check_rates,
    check_sizes,
)
from jaxflow.models.inputs import check_tokens, full_mask, last_real
from jaxflow.models.layers import PLAIN, TRAINING
from jaxflow.models.output import EncoderOutput, at_least_float32

__all__ = ["Gpt2", "Gpt2Config"]


@dataclasses.dataclass(frozen=True)
class Gpt2Config(ConfigRecord):
    """Sizes of a `Gpt2`; the defaults are those of the smallest published one.

    Attributes
    ----------
    head
        ``lm``, ``classification`` or ``none``.
    vocabulary, positions
        Word pieces, and longest input in tokens.
    layers, heads, width, hidden_width
        Blocks, heads a block, width of the stream and of the feed-forward layer.
    labels
        The classes' names; empty without a classification head.
    activation, epsilon
        Of the feed-forward layers, by the name in published configurations; of the norms.
    dropout, attention_dropout, embedding_dropout
        Rates while training: branches, attention weights, embeddings.
    tied
        Whether the next tokens are read off with the word embeddings.
    pad_id
        The padding token's number; None where there is none, and every token is real.
    """

    head: Head = "lm"
    vocabulary: int = 50_257
    positions: int = 1024
    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden_width: int = 3072
    labels: tuple[str, ...] = ()
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    tied: bool = True
    pad_id: int | None = None

    def __post_init__(self) -> None:
        if self.head not in ("none", "classification", "lm"):
            raise InputError(f"head must be none, classification or lm, got {self.head!r}")
        check_sizes(self, "vocabulary", "positions", "layers", "heads", "width", "hidden_width")
        check_heads(self)
        check_rates(self, "dropout", "attention_dropout", "embedding_dropout")
        check_labels(self)
        check_pad_id(self)

    @property
    def reads_last(self) -> bool:
        """Whether classes are read off the last real token: they are."""
        return True

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

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
        )


class Gpt2(nn.Module):
    """A causal decoder; `encode` and `embed` are its halves, as in `AgreementEncoder`."""

    config: Gpt2Config
    rolled: bool = False

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=normal(0.02))
        self.position = self.param("position", normal(0.01), (config.positions, config.width))
        self.blocks = make_blocks(config.block, self.rolled)
        self.norm = LayerNorm(config.epsilon)
        if config.head == "classification":
            self.readout = nn.Dense(config.classes, use_bias=False, kernel_init=normal(0.02))
        if config.head == "lm" and not config.tied:
            shape = (config.vocabulary, config.width)
            self.decoder = self.param("decoder", normal(0.02), shape)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
    ) -> EncoderOutput:
        """Encode, and read off what the head reads.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding.
        train
            Whether to drop out; needs a ``dropout`` key in ``rngs``.
        values
            Whether to return value vectors and output projections too.

        Returns
        -------
        EncoderOutput
            Logits ``[B, n, V]`` of the token after each, or ``[B, C]`` read off the last real
            token, which ``pooled`` is then; attention, 0 where a key comes after its query; hidden
            states, the last one before the closing norm.

        Raises
        ------
        InputError
            If a shape or dtype is wrong or there are more tokens than positions.
        """
        tokens, mask = check_tokens(tokens, mask, self.config.pad_id)
        return self.encode(self.embed(tokens), mask, train, values=values)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Look the words up: ``[B, n]`` to ``[B, n, D]``, positions not yet added."""
        return self.word(tokens)

    def encode(
        self,
        embeddings: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
        offsets: jax.Array | None = None,
    ) -> EncoderOutput:
        """Encode word embeddings ``[B, n, D]``; without a mask all are real.

        `offsets`, ``[B, L, H, n, n]``, are added to the attention that mixes values.
        """
        config = self.config
        mask = full_mask(embeddings, mask, config.positions)
        stream = embeddings + self.position[None, : embeddings.shape[1]]
        if train and config.embedding_dropout:
            stream = dropout(self.make_rng("dropout"), stream, config.embedding_dropout)
        allowed = allowed_pairs(mask, causal=True)
        trunk = run_blocks(self.blocks, stream, allowed, train, with_values=values, offsets=offsets)
        logits, pooled = self._head(trunk.stream, mask, train)
        return EncoderOutput(logits, trunk.attention, trunk.hidden, pooled, trunk.values)

    def classify(
        self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Return the logits alone."""
        # What else is worked out is dropped by the compiler.
        logits: Any = self(tokens, mask, train).logits
        return logits

    def _head(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Return logits and what classes are read off."""
        normed = self.norm(stream, TRAINING if train else PLAIN)  # [B, n, D]
        if self.config.head == "lm":
            table = self.word.embedding if self.config.tied else self.decoder
            return at_least_float32(normed @ table.T), None
        place = last_real(mask)[:, None, None]
        pooled = jnp.take_along_axis(normed, place, axis=1)[:, 0]  # [B, D]
        if self.config.head == "none":
            return None, pooled
        return at_least_float32(self.readout(pooled)), pooled
