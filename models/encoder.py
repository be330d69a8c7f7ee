"""The agreement encoder: GPT-2 blocks without a causal mask, a class read off ``[CLS]``.

Everything an explanation needs comes back as a pure output; nothing is stored, sown or hooked.
Only this folder knows Flax: what leaves it are functions of arrays and plain trees of parameters.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import allowed_pairs, attend, dropout
from jaxflow.models.config import EncoderConfig

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


class Block(nn.Module):
    """A GPT-2 block: pre-LayerNorm attention and feed-forward, each added to the stream."""

    config: EncoderConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        # GPT-2 scales the layers that write to the residual stream by the number of such writes.
        out = _normal(0.02 / (2 * config.layers) ** 0.5)
        self.norm_attention = nn.LayerNorm(epsilon=1e-5)
        self.qkv = nn.Dense(3 * config.width, kernel_init=_normal(0.02))
        self.attention_out = nn.Dense(config.width, kernel_init=out)
        self.norm_feed_forward = nn.LayerNorm(epsilon=1e-5)
        self.up = nn.Dense(config.hidden_width or 4 * config.width, kernel_init=_normal(0.02))
        self.down = nn.Dense(config.width, kernel_init=out)

    def _drop(self, values: jax.Array, train: bool) -> jax.Array:
        rate = self.config.dropout
        return dropout(self.make_rng("dropout"), values, rate) if train and rate else values

    def __call__(
        self, stream: jax.Array, allowed: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Return the stream ``[B, n, D]`` and the attention ``[B, H, n, n]``."""
        batch, n, width = stream.shape
        heads, rate = self.config.heads, self.config.dropout

        fused = self.qkv(self.norm_attention(stream))  # [B, n, 3 D]
        fused = fused.reshape(batch, n, 3, heads, width // heads)
        query, key, value = fused.transpose(2, 0, 3, 1, 4)  # each [B, H, n, D / H]
        rng = self.make_rng("dropout") if train and rate else None
        mixed, attention = attend(query, key, value, allowed, rate=rate, rng=rng)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, n, width)
        stream = stream + self._drop(self.attention_out(mixed), train)

        expanded = nn.gelu(self.up(self.norm_feed_forward(stream)))  # [B, n, 4 D]
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
        self.norm = nn.LayerNorm(epsilon=1e-5)
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
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(
                "tokens must be whole numbers of shape [sentences, tokens], got "
                f"{tokens.dtype} {tokens.shape}"
            )
        if mask is None:
            mask = tokens != self.config.pad_id
        return self.encode(self.embed(tokens), mask, train)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Look the words up: ``[B, n]`` to ``[B, n, D]``, positions not yet added."""
        return self.word(tokens)

    def encode(
        self, embeddings: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Encode and classify word embeddings ``[B, n, D]``; without a mask all are real."""
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
            stream, weights = block(stream, allowed, train)
            hidden.append(stream)
            attention.append(weights)
        logits = self.readout(self.norm(stream[:, 0]))  # [B, C], read off [CLS]
        return EncoderOutput(
            logits=logits, attention=jnp.stack(attention, 1), hidden=jnp.stack(hidden, 1)
        )
