"""The agreement encoder: GPT-2 blocks without a causal mask, a class read off ``[CLS]``.

With a causal mask it is its own decoder twin, and the class is read off the last word.

Everything an explanation needs comes back as a pure output; nothing is stored, sown or hooked.
Only this folder knows Flax: what leaves it are functions of arrays and plain trees of parameters.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.models.attention import allowed_pairs, dropout
from jaxflow.models.blocks import LayerNorm, Trunk, make_blocks, normal, run_blocks
from jaxflow.models.config import EncoderConfig
from jaxflow.models.inputs import check_tokens, full_mask, last_real
from jaxflow.models.layers import PLAIN, TRAINING
from jaxflow.models.output import EncoderOutput, at_least_float32

__all__ = ["AgreementEncoder"]


class AgreementEncoder(nn.Module):
    """The paper's encoder, written from scratch.

    ``AgreementEncoder(config).apply(variables, tokens, mask)`` gives an `EncoderOutput`. For
    gradients at the embeddings, `embed` and `encode` are its two halves, called with
    ``apply(variables, ..., method="embed")``.
    """

    config: EncoderConfig
    rolled: bool = False

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=normal(0.02))
        self.position = self.param("position", normal(0.01), (config.positions, config.width))
        self.blocks = make_blocks(config.block, self.rolled)
        self.norm = LayerNorm()
        self.readout = nn.Dense(config.classes, kernel_init=normal(0.02))

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
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
        values
            Whether to return value vectors and output projections too.

        Returns
        -------
        EncoderOutput
            Logits, attention and hidden states.

        Raises
        ------
        InputError
            If the tokens are no ``[B, n]`` of whole numbers or more than the positions.
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
        """Encode and classify word embeddings ``[B, n, D]``; without a mask all are real.

        `offsets`, ``[B, L, H, n, n]``, are added to the attention that mixes values.
        """
        mask = full_mask(embeddings, mask, self.config.positions)
        trunk = self._run(embeddings, mask, train, with_values=values, offsets=offsets)
        logits, pooled = self._classes(trunk.stream, mask, train)
        return EncoderOutput(logits, trunk.attention, trunk.hidden, pooled, trunk.values)

    def classify(
        self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Return the logits ``[B, C]`` alone, the same at less cost.

        Where the class is read off ``[CLS]``, the last block's feed-forward layer, two thirds of
        its work, is needed for that token only.
        """
        tokens, mask = check_tokens(tokens, mask, self.config.pad_id)
        embeddings = self.embed(tokens)
        mask = full_mask(embeddings, mask, self.config.positions)
        readers = None if self.config.reads_last else 1
        trunk = self._run(embeddings, mask, train, readers=readers)
        return self._classes(trunk.stream, mask, train)[0]

    def _classes(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits and what they are read off, ``[B, D]``."""
        if self.config.reads_last:
            place = last_real(mask)[:, None, None]
            read = jnp.take_along_axis(stream, place, axis=1)[:, 0]
        else:
            read = stream[:, 0]
        pooled = self.norm(read, TRAINING if train else PLAIN)
        return at_least_float32(self.readout(pooled)), pooled

    def _run(
        self,
        embeddings: jax.Array,
        mask: jax.Array,
        train: bool,
        readers: int | None = None,
        with_values: bool = False,
        offsets: jax.Array | None = None,
    ) -> Trunk:
        n = embeddings.shape[1]
        stream = embeddings + self.position[None, :n]
        if train and self.config.dropout:
            stream = dropout(self.make_rng("dropout"), stream, self.config.dropout)
        allowed = allowed_pairs(mask, causal=self.config.causal)
        return run_blocks(self.blocks, stream, allowed, train, readers, with_values, offsets)
