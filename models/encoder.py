"""The agreement encoder: GPT-2 blocks without a causal mask, a class read off ``[CLS]``.

Everything an explanation needs comes back as a pure output; nothing is stored, sown or hooked.
Only this folder knows Flax: what leaves it are functions of arrays and plain trees of parameters.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import allowed_pairs, attend, dropout
from jaxflow.models.config import EncoderConfig
from jaxflow.models.layers import PLAIN, TRAINING, Layers

__all__ = ["AgreementEncoder", "Block", "EncoderOutput"]


@flax.struct.dataclass
class EncoderOutput:
    """What the encoder returns.

    Attributes
    ----------
    logits
        ``[B, C]``, of the classes.
    attention
        ``[B, L, H, n, n]``, queries x keys, the softmax before dropout, float32: rows sum to 1 and
        padded keys hold exactly 0.
    hidden
        ``[B, L + 1, n, D]``: what enters the first block, then what each block returns.
    """

    logits: jax.Array
    attention: jax.Array
    hidden: jax.Array


def _normal(scale: float) -> nn.initializers.Initializer:
    return nn.initializers.normal(scale)


class LayerNorm(nn.Module):
    """Layer normalisation's parameters."""

    @nn.compact
    def __call__(self, values: jax.Array, layers: Layers) -> jax.Array:
        """Normalise the last axis of ``[..., D]``."""
        width = values.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        return layers.layer_norm(values, scale, self.param("bias", nn.initializers.zeros, width))


class Block(nn.Module):
    """A GPT-2 block: pre-LayerNorm attention and feed-forward, each added to the stream."""

    config: EncoderConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        # GPT-2 scales the layers that write to the residual stream by the number of such writes.
        out = _normal(0.02 / (2 * config.layers) ** 0.5)
        self.norm_attention = LayerNorm()
        self.qkv = nn.Dense(3 * config.width, kernel_init=_normal(0.02))
        self.attention_out = nn.Dense(config.width, kernel_init=out)
        self.norm_feed_forward = LayerNorm()
        self.up = nn.Dense(config.hidden_width or 4 * config.width, kernel_init=_normal(0.02))
        self.down = nn.Dense(config.width, kernel_init=out)

    def _drop(self, values: jax.Array, train: bool) -> jax.Array:
        rate = self.config.dropout
        return dropout(self.make_rng("dropout"), values, rate) if train and rate else values

    def __call__(
        self,
        stream: jax.Array,
        allowed: jax.Array,
        train: bool = False,
        readers: int | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return the stream ``[B, n, D]`` and the attention ``[B, H, n, n]``.

        With `readers` only those of the first so many tokens: ``[B, m, D]`` and ``[B, H, m, n]``.
        """
        batch, n, width = stream.shape
        heads, rate = self.config.heads, self.config.dropout
        layers = TRAINING if train else PLAIN

        fused = self.qkv(self.norm_attention(stream, layers))  # [B, n, 3 D]
        query, key, value = (
            part.reshape(batch, n, heads, width // heads).transpose(0, 2, 1, 3)
            for part in jnp.split(fused, 3, axis=-1)
        )  # each [B, H, n, D / H]
        rng = self.make_rng("dropout") if train and rate else None
        allowed = allowed[:, :, :readers]  # its queries may be one for all
        mixed, attention = attend(
            query[:, :, :readers], key, value, allowed, rate=rate, rng=rng, product=layers.product
        )
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, -1, width)  # [B, m, D]
        stream = stream[:, :readers] + self._drop(self.attention_out(mixed), train)

        expanded = layers.gelu(self.up(self.norm_feed_forward(stream, layers)))  # [B, n, 4 D]
        stream = stream + self._drop(self.down(expanded), train)
        return stream, attention


class AgreementEncoder(nn.Module):
    """The paper's encoder, written from scratch.

    ``AgreementEncoder(config).apply(variables, tokens, mask)`` gives an `EncoderOutput`. For
    gradients at the embeddings, `embed` and `encode` are its two halves, called with
    ``apply(variables, ..., method="embed")``.
    """

    config: EncoderConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=_normal(0.02))
        self.position = self.param("position", _normal(0.01), (config.positions, config.width))
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.norm = LayerNorm()
        self.readout = nn.Dense(config.classes, kernel_init=_normal(0.02))

    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Encode and classify.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, ``[CLS]`` first.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding.
        train
            Whether to drop out; needs a ``dropout`` key in ``rngs``.

        Returns
        -------
        EncoderOutput
            Logits, attention and hidden states.

        Raises
        ------
        InputError
            If the tokens are no ``[B, n]`` of whole numbers or more than the positions.
        """
        tokens, mask = self._read(tokens, mask)
        return self.encode(self.embed(tokens), mask, train)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Look the words up: ``[B, n]`` to ``[B, n, D]``, positions not yet added."""
        return self.word(tokens)

    def encode(
        self, embeddings: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Encode and classify word embeddings ``[B, n, D]``; without a mask all are real."""
        logits, attention, hidden = self._run(embeddings, mask, train)
        return EncoderOutput(
            logits=logits, attention=jnp.stack(attention, 1), hidden=jnp.stack(hidden, 1)
        )

    def classify(
        self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Return the logits ``[B, C]`` alone, the same at less cost.

        The class is read off ``[CLS]``, so the last block's feed-forward layer, two thirds of its
        work, is needed for that token only.
        """
        tokens, mask = self._read(tokens, mask)
        return self._run(self.embed(tokens), mask, train, readers=1)[0]

    def _read(self, tokens: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(
                "tokens must be whole numbers of shape [sentences, tokens], got "
                f"{tokens.dtype} {tokens.shape}"
            )
        return tokens, tokens != self.config.pad_id if mask is None else mask

    def _run(
        self, embeddings: jax.Array, mask: Any, train: bool, readers: int | None = None
    ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        """Return logits, and attention and hidden states of every layer; `readers` of the last."""
        batch, n, _ = embeddings.shape
        if n > self.config.positions:
            raise InputError(
                f"tokens must be at most {self.config.positions} a sentence for this model, got {n}"
            )
        mask = jnp.ones((batch, n), bool) if mask is None else jnp.asarray(mask)
        if mask.shape != (batch, n) or mask.dtype != jnp.bool_:
            raise InputError(
                f"mask must be boolean of shape {(batch, n)}, got {mask.dtype} {mask.shape}"
            )
        allowed = allowed_pairs(mask, causal=self.config.causal)

        stream = embeddings + self.position[None, :n]
        if train and self.config.dropout:
            stream = dropout(self.make_rng("dropout"), stream, self.config.dropout)
        hidden, attention = [stream], []
        for block in self.blocks:
            last = block is self.blocks[-1]
            stream, weights = block(stream, allowed, train, readers if last else None)
            hidden.append(stream)
            attention.append(weights)
        logits = self.readout(
            self.norm(stream[:, 0], TRAINING if train else PLAIN)
        )  # [B, C], read off [CLS]
        return logits, attention, hidden
