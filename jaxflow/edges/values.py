"""What value vectors are made with, for methods that send parts of the stream through attention."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxflow.attention import Array
from jaxflow.edges.trace import BlockWeights, Trace
from jaxflow.errors import InputError

__all__ = ["BlocksWithValues", "blocks_with_values", "with_values"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlocksWithValues(BlockWeights):
    """The parameters of all blocks that act on values.

    Attributes
    ----------
    value, value_bias
        ``[L, D, H, d]`` and ``[L, H, d]``: value vectors are what a block reads times these.
    """

    value: Array
    value_bias: Array


def with_values(trace: Trace, kernel: Array, bias: Array) -> Trace:
    """Add to a trace what its value vectors were made with.

    Parameters
    ----------
    trace
        With ``blocks``.
    kernel, bias
        ``[L, D, H, d]`` and ``[L, H, d]``.

    Raises
    ------
    InputError
        If the trace has no blocks, or they are of another shape.
    """
    if trace.blocks is None:
        raise InputError("trace must have the blocks' parameters, got none")
    blocks = trace.blocks
    layers, heads, size, width = jnp.shape(blocks.projection)
    for name, given, wanted in (
        ("kernel", jnp.shape(kernel), (layers, width, heads, size)),
        ("bias", jnp.shape(bias), (layers, heads, size)),
    ):
        if given != wanted:
            raise InputError(f"{name} must have the shape {wanted}, got {given}")
    fields = {each.name: getattr(blocks, each.name) for each in dataclasses.fields(BlockWeights)}
    return dataclasses.replace(
        trace, blocks=BlocksWithValues(**fields, value=kernel, value_bias=bias)
    )


def blocks_with_values(trace: Trace, what: str) -> BlocksWithValues:
    """Return the blocks' parameters of a trace that has the values' too.

    Raises
    ------
    InputError
        If it has not.
    """
    if not isinstance(trace.blocks, BlocksWithValues):
        raise InputError(
            f"{what} needs what value vectors are made with, which this trace has not: trace the "
            "model with jaxflow.models.trace, or add it with jaxflow.edges.values.with_values"
        )
    return trace.blocks
