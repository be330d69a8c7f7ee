"""What a model's forward pass left behind, for edge weights that look at more than attention."""

from __future__ import annotations

import dataclasses

import jax

from jaxflow.attention import Array
from jaxflow.errors import InputError

__all__ = ["BlockWeights", "Norm", "Trace", "require"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
    """Layer normalisation of every layer.

    Attributes
    ----------
    scale, bias
        ``[L, D]``.
    epsilon
        What is added to the variance.
    """

    scale: Array
    bias: Array
    epsilon: float = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockWeights:
    """The parameters of all blocks that act after attention has been paid.

    Attributes
    ----------
    projection, projection_bias
        ``[L, H, d, D]`` and ``[L, D]``, of the attention's output.
    norm_attention, norm_feed_forward
        Normalisation of what a branch reads (`norm_first`), or of the sum after it.
    up, up_bias, down, down_bias
        ``[L, D, F]``, ``[L, F]``, ``[L, F, D]`` and ``[L, D]``, of the feed-forward layer.
    activation
        ``gelu_new`` (and ``gelu_pytorch_tanh``), ``gelu``, ``relu`` or ``silu``.
    norm_first
        True where branches read normalised values (pre-LayerNorm).
    """

    projection: Array
    projection_bias: Array
    norm_attention: Norm
    norm_feed_forward: Norm
    up: Array
    up_bias: Array
    down: Array
    down_bias: Array
    activation: str = dataclasses.field(metadata={"static": True})
    norm_first: bool = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """A forward pass over n tokens; everything but the attention may be left out.

    Attributes
    ----------
    attention
        ``[..., L, H, n, n]``, rows summing to 1 at real queries, padded keys 0.
    mask
        ``[..., n]`` boolean, True at real tokens.
    gradient
        ``[..., L, H, n, n]``, of the output that is explained with respect to the attention of the
        same layer, all else above it changing along.
    vectors
        ``[..., L, H, n, d]``, the value vectors, their bias included.
    stream
        ``[..., L + 1, n, D]``, what enters the first block, then what each block returns.
    blocks
        The blocks' parameters.
    special
        ``[..., n]`` boolean, True at special tokens such as ``[CLS]`` and ``[SEP]``.
    relevance
        ``[..., L, H, n, n]``, of attention for the output that is explained, propagated down from
        it layer by layer.
    """

    attention: Array
    mask: Array | None = None
    gradient: Array | None = None
    vectors: Array | None = None
    stream: Array | None = None
    blocks: BlockWeights | None = None
    special: Array | None = None
    relevance: Array | None = None


#: What each field is, in the words of an error.
_FIELDS = {
    "gradient": "the gradient with respect to attention",
    "vectors": "value vectors",
    "stream": "hidden states",
    "blocks": "the blocks' parameters",
    "special": "which tokens are special",
    "relevance": "relevances of attention",
}


def require(trace: Trace, needs: tuple[str, ...], what: str) -> None:
    """Check that a trace has what something needs.

    Raises
    ------
    InputError
        Naming what is missing.
    """
    missing = [_FIELDS[name] for name in needs if getattr(trace, name) is None]
    if missing:
        raise InputError(
            f"{what} needs {' and '.join(missing)}, which this trace has not: trace the model with "
            "jaxflow.models.trace, or choose an edge weight that needs attention alone"
        )
