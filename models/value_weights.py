"""What a model's value vectors are made with, added to its traces."""

from __future__ import annotations

import jax.numpy as jnp

from jaxflow.edges.trace import Trace
from jaxflow.edges.values import with_values
from jaxflow.models.model import Model

__all__ = ["with_value_weights"]


def with_value_weights(model: Model, trace: Trace) -> Trace:
    """Add to a model's trace what its value vectors were made with.

    Parameters
    ----------
    model
        The model that was traced, its blocks one by one.
    trace
        What `jaxflow.models.trace` gave.

    Returns
    -------
    Trace
        Whose ``blocks`` are `jaxflow.edges.values.BlocksWithValues`.
    """
    config = model.config.block
    parts = [model.params["params"][f"blocks_{layer}"]["qkv"] for layer in range(config.layers)]
    kernel = jnp.stack([part["kernel"][:, -config.width :] for part in parts])  # [L, D, D]
    bias = jnp.stack([part["bias"][-config.width :] for part in parts])  # [L, D]
    return with_values(
        trace,
        kernel.reshape(config.layers, config.width, config.heads, -1),
        bias.reshape(config.layers, config.heads, -1),
    )
