"""Which module belongs to which configuration; the one list of architectures."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.models.bert import Bert, BertConfig
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.gpt2 import Gpt2, Gpt2Config
from jaxflow.models.vit import ViT, ViTConfig

__all__ = ["ModelConfig", "init", "make_module"]

ModelConfig = EncoderConfig | BertConfig | Gpt2Config | ViTConfig

_MODULES: dict[type, Any] = {
    EncoderConfig: AgreementEncoder,
    BertConfig: Bert,
    Gpt2Config: Gpt2,
    ViTConfig: ViT,
}


def make_module(config: ModelConfig, *, rolled: bool = False) -> nn.Module:
    """Return the Flax module of a configuration, its blocks one by one or as one loop."""
    module: nn.Module = _MODULES[type(config)](config, rolled=rolled)
    return module


def init(config: ModelConfig, seed: int = 0) -> Any:
    """Draw fresh parameters, the variables that ``make_module(config).apply`` takes."""
    if isinstance(config, ViTConfig):
        example = jnp.zeros((1, *config.image, config.channels))
    else:
        example = jnp.zeros((1, min(2, config.positions)), jnp.int32)
    return jax.jit(make_module(config).init)(jax.random.key(seed), example)
