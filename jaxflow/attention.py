"""Check attentions, fuse their heads, and weigh the edges of the attention graph.

An *attention* is ``[..., L, H, n, n]``: layers from bottom to top, heads, query rows, key columns.
Its rows sum to 1 at real queries, and with a mask padded keys hold exactly 0. Under ``jit``,
``vmap`` or ``grad`` an array has no values yet: there only shapes and dtypes are checked, and what
is NaN stays NaN to the end.

Wherever an attention is taken, a list or tuple of arrays ``[..., H, n, n]`` is a stack of layers,
as ``outputs.attentions`` of `transformers` is. Layers ``[1, H, n, n]`` are those of one text, and
the result has no batch axis, unless the mask has one.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError


class SupportsArray(Protocol):
    """An array of any framework: NumPy, JAX, a torch CPU tensor."""

    def __array__(self) -> Any:
        """Return the values as a NumPy array."""


Array = np.ndarray | jax.Array
#: Accepted for every array argument; lists and tuples are nested ones of numbers, or, where an
#: attention is taken, its layers.
ArrayLike = SupportsArray | list[Any] | tuple[Any, ...]
#: Indices of layers or tokens: one, several, or None for all.
Indices = int | Sequence[int] | np.ndarray | None

# float32 softmax over 512 keys stays within 1e-5; ten times that detects every wrong axis, missing
# softmax or half-precision cast, and accepts every valid attention.
ROW_SUM_TOLERANCE = 1e-4

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

HALVES = ("bfloat16", "float16")

#: What to do where rows are further from 1 than rounding can be, as those of torch in train mode.
NO_ROWS = (
    "; use the probabilities after softmax with keys on the last axis, and turn dropout off "
    "(model.eval())"
)

#: Dtype -> how far from 1 a row's sum may be: each entry off by half a unit in its last place, and
#: as much again for a softmax that was computed in that precision too.
HALF_ROW_SUM_TOLERANCES = {"bfloat16": 2.0**-7, "float16": 2.0**-10}


#: Terms up to which a sum is written out: more take too long to compile.
UNROLLED = 100


def is_traced(*values: object) -> bool:
    """Return whether any of the values is abstract, as inside ``jit``, ``vmap`` or ``grad``."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def as_array(name: str, value: Any) -> Array:
    """Return a JAX array as it is and anything else as a NumPy array, or raise `InputError`.

    Of a torch tensor the values are taken, wherever it is and whatever gradient it carries.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except TypeError:
            if not hasattr(value, "__dlpack__"):
                raise
            array = np.asarray(jax.dlpack.from_dlpack(value))  # bfloat16, which NumPy lacks
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype == object:
        raise InputError(f"{name} must be an array of numbers, got {type(value).__name__}")
    # NumPy writes bfloat16 to files as two bytes without a meaning, and no other dtype.
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


def as_layers(name: str, value: Any, mask: Any = None, axis: int = -4) -> Array:
    """Return `as_array`, where a list or tuple of arrays is a stack of layers on the axis `axis`.

    The arrays are those of one layer each, bottom to top, without the layer axis: of an attention
    ``[..., H, n, n]``. A batch of one text, as `transformers` returns for one, has no batch axis
    then, unless `mask` has one. Raises `InputError` with the index of a layer that is None or
    unlike the others.
    """
    cure = 'load the model with attn_implementation="eager" and ask for output_attentions=True'
    if value is None:
        raise InputError(f"{name} must be an array of numbers, got NoneType: {cure}")
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    listed = first is None or isinstance(first, list | tuple) or np.ndim(first) >= -axis - 1
    if not isinstance(value, list | tuple) or not listed:
        return as_array(name, value)
    layers = []
    for place, layer in enumerate(value):
        if layer is None:
            raise InputError(
                f"{name}[{place}] is None, as of a fused kernel, which returns no attention: {cure}"
            )
        if isinstance(layer, list | tuple):
            raise InputError(
                f"{name} must be one list of layers, got a list of lists, as generate() returns "
                "one a step: run the model once on the whole sequence, or pass the first step's"
            )
        layers.append(as_array(f"{name}[{place}]", layer))
        if (layers[-1].shape, layers[-1].dtype) != (layers[0].shape, layers[0].dtype):
            raise InputError(
                f"{name} must hold layers of one shape and dtype, got {layers[-1].dtype} "
                f"{layers[-1].shape} at index {place} after {layers[0].dtype} {layers[0].shape}"
            )
    if not layers:
        raise InputError(f"{name} must hold at least one layer, got none: {cure}")
    namespace: Any = jnp if any(isinstance(layer, jax.Array) for layer in layers) else np
    stack: Array = namespace.stack(layers, axis)
    one_text = stack.ndim == 1 - axis and len(stack) == 1 and np.ndim(mask) < 2
    return stack[0] if one_text else stack


def refuse_traced(name: str, *values: object) -> None:
    """Raise `InputError` where a function that needs values is called inside ``jit``."""
    if is_traced(*jax.tree.leaves(values)):
        raise InputError(f"{name} needs values and cannot run inside jit, vmap or grad")


def in_own_precision(function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """Call a JAX function so that float64 stays float64 and host arrays come back to the host.

    JAX truncates float64 unless ``jax_enable_x64`` is on. A NumPy argument of that dtype is
    computed in float64 all the same, and the result is a NumPy array, because a float64 JAX array
    outside of that mode would lose its precision in the next operation.
    """
    if any(isinstance(array, jax.Array) for array in arrays):
        return function(*arrays, **options)
    wide = any(getattr(array, "dtype", None) == np.float64 for array in arrays)
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        result = function(*arrays, **options)
        # What the function closes over may be traced although its arguments are not.
        return jax.tree.map(lambda leaf: leaf if is_traced(leaf) else np.asarray(leaf), result)


def check_attention(attention: Any, mask: Any = None) -> tuple[Array, Array | None]:
    """Check an attention and its mask; return both as arrays, values untouched.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64. NumPy, JAX or anything with ``__array__``, such
        as a torch tensor; or a list or tuple of its layers, each ``[..., H, n, n]``.
    mask
        ``[..., n]`` boolean, True at real tokens, or None where all are.

    Returns
    -------
    tuple
        The attention and the mask; NumPy stays NumPy and JAX stays JAX.

    Raises
    ------
    InputError
        If the rank, the shape or the dtype is wrong, an entry at a real query is negative, NaN or
        infinite, a real query's row does not sum to 1 within `ROW_SUM_TOLERANCE`, or a padded key
        holds anything but 0 there.
    """
    attention, mask = check_layout(attention, mask)
    if not is_traced(attention, mask):
        check_values(attention, mask, mask)
    return attention, mask


def check_layout(attention: Any, mask: Any = None) -> tuple[Array, Array | None]:
    """Check all that `check_attention` does but the values."""
    attention = as_layers("attention", attention, mask)
    if attention.ndim < 4:
        raise InputError(
            "attention must have the shape [..., layers, heads, tokens, tokens], got rank "
            f"{attention.ndim} with shape {attention.shape}"
        )
    if attention.shape[-1] != attention.shape[-2]:
        raise InputError(
            f"attention must be square in its last two axes, got shape {attention.shape}"
        )
    if 0 in attention.shape:
        raise InputError(f"attention must not have an empty axis, got shape {attention.shape}")
    check_dtype("attention", attention)
    if mask is not None:
        mask = _check_mask(mask, attention.shape)
        if isinstance(attention, np.ndarray) and not is_traced(mask):
            mask = np.asarray(mask)
    return attention, mask


def check_dtype(name: str, attention: Array) -> None:
    """Raise `InputError` unless an attention is float32 or float64."""
    if attention.dtype not in FLOATS:
        half = str(attention.dtype) in HALVES
        cure = "jaxflow.widen makes it float32" if half else "convert it first"
        raise InputError(f"{name} must be float32 or float64, got {attention.dtype}: {cure}")


def _check_mask(mask: Any, shape: tuple[int, ...]) -> Array:
    mask = as_array("mask", mask)
    expected = (*shape[:-4], shape[-1])
    if mask.shape != expected:
        raise InputError(
            f"mask must have the shape {expected} to go with attention {shape}, got {mask.shape}"
        )
    if mask.dtype != np.bool_:
        raise InputError(f"mask must be boolean, True at real tokens, got {mask.dtype}")
    return mask


def check_one_sentence(attention: Array) -> None:
    """Raise `InputError` for an attention with batch axes."""
    if attention.ndim != 4:
        raise InputError(
            "attention must be that of one sentence, [layers, heads, tokens, tokens], got shape "
            f"{attention.shape}"
        )


def check_values(
    array: Array,
    query: Array | None,
    key: Array | None,
    name: str = "attention",
    kind: str = "attention",
) -> None:
    """Check the values of an array ``[..., L, H, n, m]`` whose layout has been checked.

    `query` and `key` are the masks of its last two axes. The rows of ``edges``, another `kind`, may
    have any sum and sign; a ``gradient`` must be finite between real tokens, and no more.
    """
    if isinstance(array, np.ndarray):
        with np.errstate(invalid="ignore", over="ignore"):  # an error below, not a warning here
            worst = _worst_row(array, query, key, kind=kind)
    else:
        worst = _worst_row_on_device(array, query, key, kind=kind)
    refuse_values(worst, array, query, key, name, kind)


def refuse_values(
    worst: Any, array: Array, query: Array | None, key: Array | None, name: str, kind: str
) -> None:
    """Raise `InputError` unless `_worst_row` of an array is that of a usable one."""
    # Only this number is copied from an accelerator to the host.
    if float(worst) <= ROW_SUM_TOLERANCE:
        return
    values = np.asarray(array)
    real = np.ones((), bool) if query is None else np.asarray(query)[..., None, None, :, None]
    hidden = np.zeros((), bool) if key is None else ~np.asarray(key)[..., None, None, None, :]
    counted = real & ~(hidden & (kind == "gradient"))
    cure = ""
    with np.errstate(invalid="ignore", over="ignore"):
        padded = np.where(real & hidden, np.abs(values), 0)
        low = np.where(real, -values, 0)
        if kind != "gradient" and padded.any():
            measure = padded
            problem = (
                "must hold exactly 0 at the keys that mask marks as padding, got "
                f"{padded.max():.3g}"
            )
        elif (measure := counted & ~np.isfinite(values)).any():
            problem = "must be finite, got NaN or infinite entries"
        elif kind == "attention" and low.max() > 0:
            measure, problem = low, f"must not be negative, got {-low.max():.3g}"
        else:
            measure = np.where(real, np.abs(values.sum(-1, keepdims=True) - 1), 0)
            error = measure.max()
            problem = (
                f"rows (queries) must sum to 1 within {ROW_SUM_TOLERANCE:g}, got a row that is off "
                f"by {error:.3g}"
            )
            if error <= max(HALF_ROW_SUM_TOLERANCES.values()):
                cure = "; if half precision has rounded it, jaxflow.widen divides rows by their sum"
            else:
                cure = NO_ROWS
    *text, layer, head, row, _ = map(int, np.unravel_index(measure.argmax(), measure.shape))
    sentence = f"sentence {', '.join(map(str, text))}, " if text else ""
    raise InputError(f"{name} {problem} ({sentence}layer {layer}, head {head}, row {row}){cure}")


def _worst_row(array: Any, query: Any, key: Any, *, kind: str, namespace: Any = np) -> Any:
    """Return how far a row's sum is from 1 at most, NaN where an entry is not usable."""
    rows = array
    real = None if query is None else namespace.asarray(query)[..., None, None, :, None]
    seen = None if key is None else namespace.asarray(key)[..., None, None, None, :]
    if kind == "gradient" and seen is not None:
        real = seen if real is None else real & seen
    elif seen is not None:
        rows = namespace.where(~seen & (rows != 0), np.array(np.nan, rows.dtype), rows)
    if real is not None:
        rows = namespace.where(real, rows, np.array(1 / array.shape[-1], rows.dtype))
    total = rows.sum(-1)
    if kind != "attention":
        return namespace.where(namespace.isfinite(total).all(), 0, np.nan)
    return np.nan if rows.min() < 0 else namespace.abs(total - 1).max()


@partial(jax.jit, static_argnames="kind")
def _worst_row_on_device(array: jax.Array, query: Any, key: Any, *, kind: str) -> jax.Array:
    """Return `_worst_row`, in as few passes over the memory as XLA's reductions allow."""
    if kind != "attention":
        return jnp.asarray(_worst_row(array, query, key, kind=kind, namespace=jnp))
    *texts, layers, heads, n, m = array.shape
    flat = array.reshape(math.prod(texts), layers * heads * n, m)
    columns = jnp.ones((len(flat), m, 1), array.dtype)
    if key is not None:
        hidden = ~jnp.asarray(key).reshape(-1, m, 1)
        columns = jnp.concatenate([columns, hidden.astype(array.dtype)], -1)
    sums = jnp.matmul(flat, columns, precision=jax.lax.Precision.HIGHEST)
    usable = (flat.min(-1) >= 0) & (sums[..., -1] == 0 if key is not None else True)
    off = jnp.where(usable, jnp.abs(sums[..., 0] - 1), jnp.nan)
    if query is not None:
        real = jnp.broadcast_to(jnp.asarray(query)[..., None, None, :], array.shape[:-1])
        off = jnp.where(real.reshape(off.shape), off, 0)
    return off.max()


def call_checked(
    function: Callable[..., Any], attention: Array, mask: Array | None, *arrays: Any, **options: Any
) -> Any:
    """Check the values of an attention whose layout has been checked, and call a JAX function.

    The rest is as in `in_own_precision`. Values on a device are checked in the program of the
    function, which reads them while they are there.
    """
    if is_traced(attention, mask):
        return in_own_precision(function, attention, mask, *arrays, **options)
    if isinstance(attention, np.ndarray) or is_traced(*arrays):
        check_values(attention, mask, mask)
        return in_own_precision(function, attention, mask, *arrays, **options)
    result, worst = _checked(function, tuple(options.items()), attention, mask, *arrays)
    refuse_values(worst, attention, mask, mask, "attention", "attention")
    return result


@partial(jax.jit, static_argnums=(0, 1))
def _checked(
    function: Callable[..., Any], options: Any, attention: Array, mask: Any, *arrays: Any
) -> tuple[Any, Any]:
    worst = _worst_row_on_device(attention, mask, mask, kind="attention")
    return function(attention, mask, *arrays, **dict(options)), worst


def check_residual(residual: Any) -> Any:
    """Check the residual's share, a number in [0, 1], and return it."""
    if is_traced(residual):
        return residual
    try:
        value = float(residual)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"residual must be a number from 0 to 1, got {residual!r}")
    return value


def check_heads(heads: Any, count: int) -> str | int:
    """Check how heads are to be fused, or which of `count` heads is meant, and return it."""
    if isinstance(heads, str) and heads in ("mean", "max", "min"):
        return heads
    if isinstance(heads, int | np.integer) and not isinstance(heads, bool):
        if -count <= heads < count:
            return int(heads)
        raise InputError(f"heads must be an index from {-count} to {count - 1}, got {heads}")
    raise InputError(f"heads must be 'mean', 'max', 'min' or the index of a head, got {heads!r}")


def check_count(name: str, value: Any) -> int:
    """Return a positive whole number, NumPy's too, as Python's; `InputError` for all else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def resolve_index(name: str, value: Any, size: int) -> int:
    """Return an index as a number from 0 to size - 1; negative ones count from the end."""
    try:
        index = operator.index(value)
    except TypeError:
        index = size
    if isinstance(value, bool | np.bool_) or not -size <= index < size:
        raise InputError(f"{name} must be an index from {-size} to {size - 1}, got {value!r}")
    return index + size if index < 0 else index


def resolve_indices(name: str, value: Any, size: int, *, signed: bool = False) -> tuple[int, ...]:
    """Return one index, a sequence of them, or None for all, as a tuple of numbers from 0.

    With `signed`, negative ones stay as they are.
    """
    if value is None:
        return tuple(range(size))
    if not isinstance(value, Iterable) or isinstance(value, str) or np.ndim(value) == 0:  # type: ignore[arg-type]
        value = [value]
    given = list(value)
    indices = tuple(resolve_index(name, item, size) for item in given)
    if not indices:
        raise InputError(f"{name} must name at least one index, got none")
    pairs = zip(given, indices, strict=True)
    return tuple(at - size if signed and one < 0 else at for one, at in pairs)


def length_mask(lengths: Any, n: int) -> Any:
    """Return the mask ``[..., n]`` of texts of so many tokens, ``[...]``: True at real tokens."""
    namespace: Any = jnp if isinstance(lengths, jax.Array) else np
    each = namespace.asarray(lengths)[..., None]
    return namespace.broadcast_to(namespace.arange(n), (*each.shape[:-1], n)) < each


def resolve_tokens(name: str, value: Any, n: int, mask: Array | None) -> tuple[int, ...] | Array:
    """Return tokens as numbers from 0: ``[S]``, or ``[..., S]`` where they differ between texts.

    Negative ones count from the end of each text of `mask` ``[..., n]``: -1 is its last real token.
    Raises `InputError` for one that a text is too short for; where the mask is traced it becomes n,
    which is no token's index. A text without any real token has padding in its place.
    """
    chosen = resolve_indices(name, value, n, signed=mask is not None)
    if mask is None or min(chosen) >= 0:
        return chosen
    found = places_from_end(chosen, mask)
    if is_traced(found):
        return found
    if (found == n).any():
        *text, at = map(int, np.argwhere(found == n)[0])
        raise InputError(
            f"{name} must name a token of every text, got {chosen[at]} for a text of "
            f"{np.asarray(mask)[tuple(text)].sum()} tokens"
        )
    rows = np.asarray(found).reshape(-1, len(chosen))
    return tuple(rows[0].tolist()) if (rows == rows[:1]).all() else found


def resolve_token(name: str, value: Any, n: int, mask: Array | None) -> int:
    """Return one token of one text as a number from 0, as `resolve_tokens` does several."""
    resolve_index(name, value, n)
    (place,) = resolve_tokens(name, operator.index(value), n, mask)
    return int(place)


def places_from_end(chosen: tuple[int, ...], mask: Array) -> Array:
    """Return the places ``[..., S]`` of `resolve_tokens`, n where a text is too short."""
    namespace: Any = jnp if is_traced(mask) else np
    real, n = namespace.asarray(mask), mask.shape[-1]
    count = real.sum(-1)[..., None]  # [..., 1]
    wanted = namespace.broadcast_to(namespace.array(chosen), (*mask.shape[:-1], len(chosen)))
    order = namespace.argsort(~real, axis=-1, stable=True)  # real tokens first, in their order
    found = namespace.take_along_axis(order, namespace.clip(count + wanted, 0, n - 1), axis=-1)
    found = namespace.where((count > 0) & (count + wanted < 0), n, found)
    places: Array = namespace.where(wanted < 0, found, wanted)
    return places


def take_rows(table: Array, rows: tuple[int, ...] | Array) -> Array:
    """Return ``[..., S, m]`` of ``[..., n, m]``: the rows that `resolve_tokens` has named."""
    if isinstance(rows, tuple):
        return table[..., np.array(rows), :]
    # Under jit an index that is no token's makes a row of NaN.
    namespace: Any = np if isinstance(table, np.ndarray) and not is_traced(rows) else jnp
    between = [None] * (table.ndim - rows.ndim - 1)  # layers and heads
    taken: Array = namespace.take_along_axis(table, rows[(..., *between, slice(None), None)], -2)
    return taken


def fuse_heads(attention: Array, heads: str | int | None = "mean", dtype: Any = None) -> Array:
    """Fuse the heads of an attention ``[..., L, H, n, n]`` into one matrix a layer.

    `heads` is ``"mean"``, ``"max"`` or ``"min"`` over the heads, entry by entry, or the index of
    the one head to take; None keeps all. Rows of ``"max"`` and ``"min"`` no longer sum to 1. With
    `dtype` the result has it, without a copy of all heads in it.
    """
    if heads is not None:
        heads = check_heads(heads, attention.shape[-3])
    if heads == "mean" and (isinstance(attention, np.ndarray) or attention.shape[-3] > UNROLLED):
        return attention.mean(-3, dtype=dtype)
    if heads == "mean":
        # As a sum written out it is computed together with what is done to it next.
        axis = attention.ndim - 3
        first, *others = jax.lax.split(attention, (1,) * attention.shape[axis], axis)
        return sum(others, first.astype(dtype)).squeeze(axis) / attention.shape[axis]
    if heads == "max":
        fused = attention.max(-3)
    elif heads == "min":
        fused = attention.min(-3)
    else:
        fused = attention if heads is None else attention[..., int(heads), :, :]
    return fused if dtype is None else fused.astype(dtype)


def edge_weights(
    attention: Array,
    *,
    residual: Any = 0.5,
    heads: str | int | None = "mean",
    mask: Array | None = None,
    dtype: Any = None,
) -> Array:
    r"""Weigh the edges of the attention graph: :math:`A^{(l)} = (1 - r) W^{(l)} + r I`.

    Of a checked attention ``[..., L, H, n, n]``, ``[..., L, n, n]``, or with `heads` None
    ``[..., L, H, n, n]``. Rows of real queries sum to 1; where fusing left rows that do not
    (``"max"``, ``"min"``), they are divided by their sum after that, as Abnar and Zuidema (2020,
    section 3) have it. Padded tokens get no edges.
    """
    namespace = np if isinstance(attention, np.ndarray) and not is_traced(residual) else jnp
    fused = fuse_heads(attention, heads, dtype)
    identity = namespace.eye(fused.shape[-1], dtype=fused.dtype)
    edges = (1 - residual) * fused + residual * namespace.broadcast_to(identity, fused.shape)
    if heads in ("max", "min"):
        total = edges.sum(-1, keepdims=True)
        edges = edges / namespace.where(total > 0, total, 1)
    return mask_tokens(edges, mask, heads=heads is None)


def mask_tokens(matrices: Array, mask: Array | None, *, heads: bool = False) -> Array:
    """Set the rows and columns of padded tokens to 0 in ``[..., L, (H,) n, n]``."""
    if mask is None:
        return matrices
    namespace = np if isinstance(matrices, np.ndarray) and not is_traced(mask) else jnp
    real = namespace.asarray(mask)
    both = real[..., :, None] & real[..., None, :]
    both = both[..., None, None, :, :] if heads else both[..., None, :, :]
    return namespace.where(both, matrices, namespace.zeros((), matrices.dtype))


@overload
def widen(attention: jax.Array, mask: ArrayLike | None = None) -> jax.Array: ...
@overload
def widen(attention: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray: ...
def widen(attention: ArrayLike, mask: ArrayLike | None = None) -> Array:
    r"""Return attention of half precision as float32 whose rows sum to 1.

    The functions here take float32 and float64 and refuse rows that do not sum to 1: half precision
    looks like a wrong axis. Where the deviation is rounding alone, this corrects it by dividing
    each row by its sum.

    Parameters
    ----------
    attention
        ``[..., n, n]``, of cross-attention ``[..., n, m]``, in bfloat16 or float16, rows summing
        to 1 within `HALF_ROW_SUM_TOLERANCES`: a torch tensor, an array of `ml_dtypes`, one that
        ``np.savez`` has written, or a list or tuple of layers. Or float32 or float64 that was
        converted from half precision.
    mask
        ``[..., n]`` boolean over the axes before layers and heads, True at real tokens, for
        ``[..., L, H, n, n]``; rows of padded tokens may hold anything finite and become 0. Without
        a mask a row of zeros, as of a query without keys, is an error.

    Returns
    -------
    array
        float32, of float64 float64, the same shape; a JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        If the dtype is another, or a row is further from 1 than rounding can be.

    Notes
    -----
    Rounding is relative: with the unit :math:`u = 2^{-8}` (bfloat16) or :math:`2^{-11}` (float16)
    each entry is :math:`W'_{ij} = W_{ij} (1 + \delta_{ij})` with :math:`|\delta| \le u`, and after
    dividing by the row's sum :math:`|\delta| \le \delta_1 = 2u / (1 - u)`; entries too small for a
    normal number, below :math:`6 \cdot 10^{-5}` in float16, may lose more. As capacities lie
    between :math:`(1 - \delta_1) A` and :math:`(1 + \delta_1) A`, so do the values of all cuts:
    **flow is off by at most the share** :math:`\delta_1`, however many layers there are. Rollout is
    a sum of products of one entry a layer: off by at most the share :math:`(1 + \delta_1)^L - 1`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxflow
    >>> half = jnp.full((1, 1, 3, 3), 1 / 3, jnp.bfloat16)
    >>> float(half.sum(-1, dtype=jnp.float32)[0, 0, 0])
    1.001953125
    >>> jaxflow.rollout(jaxflow.widen(half)).dtype
    dtype('float32')
    """
    given = as_layers("attention", attention, mask)
    name = str(given.dtype)
    if name not in HALVES and given.dtype not in FLOATS:
        raise InputError(f"attention must be {', '.join(HALVES)}, float32 or float64, got {name}")
    if given.ndim < 2 or 0 in given.shape:
        raise InputError(f"attention must have the shape [..., tokens, tokens], got {given.shape}")
    namespace: Any = jnp if isinstance(given, jax.Array) else np
    wide: Any = given.astype(np.float32) if name in HALVES else given
    real = None
    if mask is not None:
        if given.ndim < 4:
            raise InputError(f"mask goes with attention [..., L, H, n, n], got {given.shape}")
        real = _check_mask(mask, given.shape)
        wide = mask_tokens(wide, real, heads=True)
    total = wide.sum(-1, keepdims=True)
    if not is_traced(total, real):
        rows = np.asarray(total)[..., 0]
        if real is not None:
            rows = np.where(np.asarray(real)[..., None, None, :], rows, 1)
        limit = HALF_ROW_SUM_TOLERANCES.get(name, max(HALF_ROW_SUM_TOLERANCES.values()))
        error = np.abs(rows - 1).max()
        if not error <= limit:
            raise InputError(
                f"attention rows (queries) must sum to 1 within {limit:.2g} in {name}, got a row "
                f"that is off by {error:.3g}{NO_ROWS}"
            )
    result: Array = wide / namespace.where(total > 0, total, namespace.ones_like(total))
    return result
