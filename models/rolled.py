"""A model with its layers as one loop: the same numbers, a sixth of the program to compile.

Compiling a model layer after layer takes several seconds on a CPU. That is nothing beside training,
and too long for someone who wants one sentence explained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxflow.models.architectures import ModelConfig, make_module
from jaxflow.models.output import EncoderOutput

__all__ = ["RolledEncoder", "roll_up"]


class RolledEncoder(NamedTuple):
    """A model's parameters, those of all blocks stacked along a first axis.

    Attributes
    ----------
    module
        The module whose blocks are one loop.
    params
        ``blocks``, a tree of ``[L, ...]``, and the parameters around them by their own names.
    """

    module: nn.Module
    params: dict[str, Any]

    def embed(self, params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """Look the words up, as the module's ``embed`` does: ``[B, n]`` to ``[B, n, D]``."""
        embedded: Any = self.module.apply({"params": params}, tokens, method="embed")
        return embedded

    def encode(
        self, params: dict[str, Any], embeddings: jax.Array, mask: jax.Array
    ) -> EncoderOutput:
        """Encode embeddings, as the module's ``encode`` does.

        Parameters
        ----------
        params
            As `params` has them; an argument, so that they need not be compiled in.
        embeddings
            ``[B, n, D]``, n at most the configuration's positions.
        mask
            ``[B, n]`` boolean, True at real tokens.
        """
        output: Any = self.module.apply({"params": params}, embeddings, mask, method="encode")
        return output


def roll_up(config: ModelConfig, params: Any) -> RolledEncoder:
    """Stack the parameters of a model's blocks, on the host: nothing is compiled for it."""
    parts = jax.tree.map(np.asarray, params["params"])
    blocks = [parts.pop(f"blocks_{layer}") for layer in range(config.layers)]
    parts["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return RolledEncoder(make_module(config, rolled=True), jax.device_put(parts))
