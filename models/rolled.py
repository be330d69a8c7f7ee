"""The encoder with its layers as one loop: the same numbers, a sixth of the program to compile.

Compiling the encoder as `AgreementEncoder` writes it, layer after layer, takes several seconds on a
CPU. That is nothing beside training, and too long for someone who wants one sentence explained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxflow.models.attention import allowed_pairs
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import Block, LayerNorm
from jaxflow.models.layers import PLAIN

__all__ = ["RolledEncoder", "roll_up"]


class RolledEncoder(NamedTuple):
    """An encoder's parameters, those of all blocks stacked along a first axis.

    Attributes
    ----------
    config
        The encoder's configuration.
    params
        ``blocks``, a tree of ``[L, ...]``, and the parameters around them by their own names.
    """

    config: EncoderConfig
    params: dict[str, Any]

    def embed(self, params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """Look the words up, as `AgreementEncoder.embed` does: ``[B, n]`` to ``[B, n, D]``."""
        return params["word"]["embedding"][tokens]

    def encode(
        self, params: dict[str, Any], embeddings: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Encode and classify word embeddings, as `AgreementEncoder.encode` does.

        Parameters
        ----------
        params
            As `params` has them; an argument, so that they need not be compiled in.
        embeddings
            ``[B, n, D]``, n at most the configuration's positions.
        mask
            ``[B, n]`` boolean, True at real tokens.

        Returns
        -------
        tuple
            Logits ``[B, C]`` and attention ``[B, L, H, n, n]``.
        """
        block = Block(self.config)
        allowed = allowed_pairs(mask, causal=self.config.causal)

        def step(stream: jax.Array, layer: Any) -> Any:
            return block.apply({"params": layer}, stream, allowed)

        stream = embeddings + params["position"][None, : embeddings.shape[1]]
        stream, attention = jax.lax.scan(step, stream, params["blocks"])
        normal: Any = LayerNorm().apply({"params": params["norm"]}, stream[:, 0], PLAIN)
        readout = nn.Dense(self.config.classes)
        logits: Any = readout.apply({"params": params["readout"]}, normal)
        return logits, attention.swapaxes(0, 1)


def roll_up(config: EncoderConfig, params: Any) -> RolledEncoder:
    """Stack the parameters of an `AgreementEncoder`, on the host: nothing is compiled for it."""
    parts = jax.tree.map(np.asarray, params["params"])
    blocks = [parts.pop(f"blocks_{layer}") for layer in range(config.layers)]
    parts["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return RolledEncoder(config, jax.device_put(parts))
