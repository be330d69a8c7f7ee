"""Define the agreement encoder: GPT-2 blocks without a causal mask, a class from ``[CLS]``.

With a causal mask it is its own decoder variant, and the class is computed from the last word.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxflow.models.blocks import LayerNorm, Transformer, make_blocks, normal
from jaxflow.models.config import EncoderConfig
from jaxflow.models.layers import exact, layers_of
from jaxflow.models.output import at_last_real, at_least_float32


class AgreementEncoder(Transformer):
    """The paper's encoder, written from scratch.

    ``AgreementEncoder(config).apply(variables, tokens, mask)`` gives an `EncoderOutput`. For
    gradients at the embeddings, `embed` and `encode` are its two halves, called with
    ``apply(variables, ..., method="embed")``.
    """

    config: EncoderConfig

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=normal(0.02))
        self.position = self.param("position", normal(0.01), (config.positions, config.width))
        self.blocks = make_blocks(config.block, self.rolled)
        self.norm = LayerNorm()
        self.readout = nn.Dense(config.classes, kernel_init=normal(0.02))

    @property
    def _reads_first(self) -> bool:
        return not self.config.reads_last

    @exact
    def _classify(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        read = at_last_real(stream, mask) if self.config.reads_last else stream[:, 0]  # [B, D]
        pooled = self.norm(read, layers_of(train))
        return at_least_float32(self.readout(pooled)), pooled
