"""Hold the three kinds of attention of an encoder and a decoder, and check them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxflow.attention import Array, as_array, as_layers, check_dtype, check_values, is_traced
from jaxflow.errors import InputError

CrossEdge = Literal["raw", "gradient", "given"]
CROSS_EDGES: tuple[CrossEdge, ...] = get_args(CrossEdge)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CrossTrace:
    """A forward pass over m source tokens and n target tokens; H may differ between the kinds.

    Attention and gradients may be lists or tuples of layers, ``[..., H, n, n]`` each.

    Attributes
    ----------
    encoder
        ``[..., Le, H, m, m]``, float32 or float64, the encoder's attention, layers from bottom to
        top; rows sum to 1 at real queries, padded keys are 0.
    decoder
        ``[..., Ld, H, n, n]``, the decoder's self-attention, causal or not.
    cross
        ``[..., Ld, H, n, m]``, each decoder layer's attention to the encoder's output.
    source_mask, target_mask
        ``[..., m]`` and ``[..., n]`` boolean, True at real tokens; None where all are.
    encoder_gradient, decoder_gradient, cross_gradient
        Of the output that is explained with respect to the attention of each kind, each of the
        attention's shape.
    """

    encoder: Array | None
    decoder: Array | None
    cross: Array | None
    source_mask: Array | None = None
    target_mask: Array | None = None
    encoder_gradient: Array | None = None
    decoder_gradient: Array | None = None
    cross_gradient: Array | None = None


#: What each field is called in an error message, and the masks of its queries and keys.
_KINDS = {
    "encoder": ("the encoder's attention", "source", "source"),
    "decoder": ("the decoder's self-attention", "target", "target"),
    "cross": ("cross-attention", "target", "source"),
}


def check_cross(trace: CrossTrace, edge: CrossEdge, what: str) -> tuple[Any, ...]:
    """Check a trace for one use of it; return its fields in order as arrays, values untouched.

    `edge` ``raw`` needs attention, ``gradient`` its gradient too, ``given`` takes any finite edges;
    gradients are None unless they are needed. Raises `InputError` that names the use `what`, and
    what is missing or does not fit. Values are checked where they are known: not under ``jit``,
    ``vmap`` or ``grad``.
    """
    _require(trace, edge, what)
    names = [*_KINDS, *(f"{name}_gradient" for name in _KINDS if edge == "gradient")]
    mask = trace.target_mask if trace.source_mask is None else trace.source_mask
    arrays = {name: as_layers(name, getattr(trace, name), mask) for name in names}
    sizes = _check_shapes(arrays)
    masks = {
        side: _check_mask(f"{side}_mask", getattr(trace, f"{side}_mask"), shape)
        for side, shape in sizes.items()
    }
    for name, array in arrays.items():
        _, query, key = _KINDS[name.removesuffix("_gradient")]
        kind = "gradient" if name not in _KINDS else "edges" if edge == "given" else "attention"
        if not is_traced(array, masks[query], masks[key]):
            check_values(array, masks[query], masks[key], name, kind)
    gradients = (arrays.get(f"{name}_gradient") for name in _KINDS)
    return (*(arrays[name] for name in _KINDS), *masks.values(), *gradients)


def _require(trace: CrossTrace, edge: CrossEdge, what: str) -> None:
    missing = [words for name, (words, *_) in _KINDS.items() if getattr(trace, name) is None]
    if edge == "gradient":
        missing += [
            f"the gradient with respect to {words}"
            for name, (words, *_) in _KINDS.items()
            if getattr(trace, f"{name}_gradient") is None
        ]
    if missing:
        raise InputError(
            f"{what} needs {' and '.join(missing)}, which this trace lacks: have the model "
            "return the attention of encoder, decoder and cross-attention"
            + (", and differentiate an output with respect to each" if edge == "gradient" else "")
        )


def _check_shapes(arrays: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    """Check ranks, dtypes and common sizes; return the shapes of the two masks."""
    for name, array in arrays.items():
        if array.ndim < 4 or 0 in array.shape:
            raise InputError(
                f"{name} must have the shape [..., layers, heads, queries, keys] without an empty "
                f"axis, got {array.shape}"
            )
        check_dtype(name, array)
        of = name.removesuffix("_gradient")
        if array.shape != arrays[of].shape:
            raise InputError(f"{name} must have {of}'s shape {arrays[of].shape}, got {array.shape}")
    *batch, layers, _, targets, sources = arrays["cross"].shape
    wanted = {
        "encoder": (*batch, arrays["encoder"].shape[-4], sources, sources),
        "decoder": (*batch, layers, targets, targets),
    }
    for name, shape in wanted.items():
        given = arrays[name].shape
        if (*given[:-3], *given[-2:]) != shape:
            raise InputError(
                f"{name} must have the shape {shape} with heads before the last two axes, to go "
                f"with cross of shape {arrays['cross'].shape}, got {given}"
            )
    return {"source": (*batch, sources), "target": (*batch, targets)}


def _check_mask(name: str, mask: Any, shape: tuple[int, ...]) -> Array | None:
    if mask is None:
        return None
    mask = as_array(name, mask)
    if mask.shape != shape or mask.dtype != np.bool_:
        raise InputError(
            f"{name} must be boolean, True at real tokens, of shape {shape}, got {mask.dtype} "
            f"{mask.shape}"
        )
    return mask
