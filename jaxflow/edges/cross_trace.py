"""Hold the three kinds of attention of an encoder and a decoder, and check them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxflow.attention import FLOATS, ROW_SUM_TOLERANCE, Array, as_array, is_traced
from jaxflow.errors import InputError

CrossEdge = Literal["raw", "gradient", "given"]
CROSS_EDGES: tuple[CrossEdge, ...] = get_args(CrossEdge)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CrossTrace:
    """A forward pass over m source tokens and n target tokens; H may differ between the kinds.

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
    arrays = {name: as_array(name, getattr(trace, name)) for name in _KINDS}
    if edge == "gradient":
        for name in _KINDS:
            gradient = f"{name}_gradient"
            arrays[gradient] = as_array(gradient, getattr(trace, gradient))
    sizes = _check_shapes(arrays)
    masks = {
        side: _check_mask(f"{side}_mask", getattr(trace, f"{side}_mask"), shape)
        for side, shape in sizes.items()
    }
    for name, array in arrays.items():
        _, query, key = _KINDS[name.removesuffix("_gradient")]
        kind = "gradient" if name not in _KINDS else "edges" if edge == "given" else "attention"
        _check_values(name, array, masks[query], masks[key], kind)
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
        if array.dtype not in FLOATS:
            raise InputError(f"{name} must be float32 or float64, got {array.dtype}")
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


def _check_values(
    name: str, array: Array, query_mask: Array | None, key_mask: Array | None, kind: str
) -> None:
    """Check ``attention``, ``edges`` or a ``gradient`` between real tokens, where not traced."""
    if is_traced(array, query_mask, key_mask):
        return
    values = np.asarray(array)
    batch, (queries, keys) = values.shape[:-4], values.shape[-2:]
    query = np.ones((*batch, queries), bool) if query_mask is None else np.asarray(query_mask)
    key = np.ones((*batch, keys), bool) if key_mask is None else np.asarray(key_mask)
    query, key = query[..., None, None, :, None], key[..., None, None, None, :]
    rows = np.where(query, values, 0)  # a padded query may hold anything
    if not np.isfinite(np.where(key, rows, 0) if kind == "gradient" else rows).all():
        raise InputError(f"{name} must be finite, got NaN or infinite entries")
    if kind == "gradient":
        return
    if (padded := np.where(key, 0, rows)).any():
        raise InputError(
            f"{name} must hold exactly 0 at the keys that the mask marks as padding, got up to "
            f"{np.abs(padded).max():.3g}"
        )
    if kind == "edges":
        return
    if (low := rows.min()) < 0:
        raise InputError(f"{name} must not be negative, got {low:.3g}")
    error = np.abs(np.where(query[..., 0], rows.sum(-1), 1) - 1).max()
    if error > ROW_SUM_TOLERANCE:
        raise InputError(
            f"{name}'s rows (queries) must sum to 1 within {ROW_SUM_TOLERANCE:g}, got a row that "
            f"is off by {error:.3g}"
        )
