"""Models that compute in bfloat16, as accelerators like it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.models.model import Model

__all__ = ["in_bfloat16", "lowered"]


def in_bfloat16(model: Model) -> Model:
    r"""Return the same model with parameters and activations in bfloat16.

    Softmax, the statistics of layer normalisation and what is handed out are worked out in float32:
    attention is float32 with rows that sum to 1, logits are float32. Hidden states and value
    vectors are bfloat16.

    Parameters
    ----------
    model
        Any model of `jaxflow.models`.

    Notes
    -----
    With :math:`\epsilon_l` the largest :math:`\ell_1` distance between a row of layer l's fused
    attention and the same row of the float32 model, rows of **rollout** differ by at most
    :math:`(1 - r) \sum_l \epsilon_l` in :math:`\ell_1`: the product of matrices with rows that sum
    to 1 moves by no more than its factors do together. A value of **flow** is that of a cut, and
    moves by no more than all capacities together: :math:`(1 - r) \sum_l \sum_i \epsilon_{li}`, i
    the rows; mostly it moves by far less. How large the distances are is a matter of the model.
    """
    return dataclasses.replace(model, params=lowered(model.params))


def lowered(params: Any) -> Any:
    """Return a tree of parameters with its floating-point numbers in bfloat16."""

    def lower(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(lower, params)
