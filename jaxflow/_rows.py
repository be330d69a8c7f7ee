r"""Compute rows of attention rollout from queries and keys, without any matrix of attention.

A row of rollout is :math:`e_i^\top A^{(L)} \cdots A^{(1)}`, so going down the layers
:math:`v \leftarrow r v + (1 - r) \frac{1}{H} \sum_h v P_h` needs products of rows with attention
:math:`P_h` only, which `jaxflow._blocks` computes from queries and keys. Memory is that of some
rows, and time less than that of the attention itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, SupportsFloat, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow._blocks import (
    Limits,
    Pattern,
    attend,
    attention_edges,
    attention_rows,
    default_block,
    down,
    norm_edges,
    row_sums,
    uniform_edges,
)
from jaxflow.attention import (
    FLOATS,
    HALVES,
    Array,
    ArrayLike,
    Indices,
    as_array,
    check_count,
    check_residual,
    in_own_precision,
    is_traced,
    resolve_index,
    resolve_indices,
    resolve_tokens,
)
from jaxflow.errors import InputError

Edge = Literal["raw", "gradient", "gradient-signed", "norm"]
How = Literal["rollout", "paths", "product"]

_TOTAL = 1e-3  # by how much of itself a row's sum may change in a layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QueryKey:
    r"""Queries and keys of one layer, and how its attention is computed from them.

    The logits are :math:`s_{ij} = c \, q_i \cdot k_j`, or :math:`t \tanh(s_{ij} / t)` of them with
    a soft cap t; the attention is their softmax over the keys that a query may attend to.

    Attributes
    ----------
    queries, keys
        ``[..., H, n, d]`` and ``[..., K, n, d]`` as they are multiplied, rotary positions and
        norms of queries and keys included: float32, float64, bfloat16 or float16. With fewer key
        heads (grouped queries) each serves H / K heads in a row.
    causal
        Whether a token attends only to itself and to those before it.
    window
        Only tokens at a distance below this; None for no limit.
    chunk
        Only tokens of the same stretch of so many tokens from the first on; None for no limit.
    scale
        c, by default :math:`1 / \sqrt{d}`.
    soft_cap
        t; None for none.
    sinks
        ``[H]``, a logit that each query has beside its keys. The share of attention that it takes
        is missing from the rows; leave it out for rows that sum to 1 without it.
    normalisers
        ``[..., H, n]``, :math:`\log \sum_j e^{s_{ij}}` (with the sink, where there is one), as
        flash attention keeps it. Without, one more pass over queries and keys computes it.
    values, gradients
        ``[..., K, n, m]``, and the gradients of what is explained with respect to the mixed values
        ``[..., H, n, m]`` of each head, before the output projection: for attention × gradient.
    projection
        The output projection by head, ``[H, m, D]``: for norms, with the values.
    """

    queries: Any
    keys: Any
    causal: bool = dataclasses.field(kw_only=True, metadata={"static": True})
    window: Any = None
    chunk: Any = None
    scale: float | None = dataclasses.field(default=None, metadata={"static": True})
    soft_cap: float | None = dataclasses.field(default=None, metadata={"static": True})
    sinks: Any = None
    normalisers: Any = None
    values: Any = None
    gradients: Any = None
    projection: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The texts and tokens, ``[..., n]``."""
        return (*self.queries.shape[:-3], self.queries.shape[-2])

    def pattern(self, block: int) -> Pattern:
        """Return what of this is known when a program is compiled."""
        scale = self.queries.shape[-1] ** -0.5 if self.scale is None else float(self.scale)
        cap = None if self.soft_cap is None else float(self.soft_cap)
        return Pattern(bool(self.causal), scale, cap, block)


def rollout_rows(
    attention: Sequence[QueryKey | Callable[[], QueryKey]],
    sources: Indices | jax.Array = None,
    *,
    weights: ArrayLike | None = None,
    layers: Indices = -1,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
    edge: Edge = "raw",
    how: How = "rollout",
    normalise: bool = False,
    block: int | None = None,
) -> Array:
    r"""Return rows of attention rollout from queries and keys, for texts of any length.

    The rows of `jaxflow.rollout` of the attention that these queries and keys give, which is never
    there as a whole: blocks of it are computed, multiplied with all rows at once and dropped, and
    blocks that a causal mask or a window excludes are not computed. Many rows take little more time
    than one.

    Parameters
    ----------
    attention
        A `QueryKey` for each layer, bottom to top, or a function without arguments that returns
        it. It is called once, from the top layer down, so that a layer's queries and keys can be
        computed when they are needed and need not be kept.
    sources
        Tokens whose rows to return, as in `jaxflow.rollout`: an index, a sequence, or None for all.
    weights
        ``[..., R, n]``, in place of `sources`: the rows to start with, such as the mean of the
        tokens of an answer. Rows of ones give the sums of the columns.
    layers
        Layers after which the rows are wanted; the axis stays. By default the top one.
    residual
        Share of the residual connection, from 0 to 1, for ``rollout``.
    heads
        ``"mean"``, the index of one head of every layer, or ``"each"`` for `jaxflow.head_rollout`:
        single heads of the layer where the rows start, all heads below.
    mask
        ``[..., n]`` boolean, True at real tokens.
    edge
        ``raw`` attention, or attention × gradient: ``gradient`` :math:`\max(0, P \odot \nabla P)`
        or ``gradient-signed`` :math:`P \odot \nabla P`, the mean over heads, with
        :math:`\nabla P_{ij} = g_i \cdot v_j` of the layer's gradients and values; or ``norm``,
        :math:`\lVert \sum_h P^h_{ij} v^h_j W_O^h \rVert`, as `jaxflow.edges` has them.
    how
        ``rollout``, ``paths`` or ``product``, as in `jaxflow.edges.aggregate`.
    normalise
        Divide by the same rows under uniform attention, as `jaxflow.edges.normalise` does for
        causal models: 1 is what a token gets for its position alone. Uniform over the tokens that
        the layer's window and chunk allow.
    block
        Tokens of a block; None takes what is fastest, 64 or 128 on a CPU, more on
        an accelerator.

    Returns
    -------
    array
        ``[..., L', S, n]``, with ``heads="each"`` ``[..., L', H, S, n]``; 0 at padding. float64 for
        float64 queries, else float32; a JAX array for JAX queries, else NumPy.

    Raises
    ------
    InputError
        If an argument is not usable, or kept normalisers are not those of the queries and keys.

    Notes
    -----
    For rows v, from the top layer down,

    .. math:: v \leftarrow r v + (1 - r) \frac{1}{H} \sum_h v P_h, \qquad
              (v P_h)_j = \sum_i v_i \, e^{s^h_{ij} - z^h_i}

    with z the normalisers: one pass over the blocks, after one that computes z unless it was kept.
    The sum over heads is taken before the product with the rows. Edges other than ``raw`` are
    divided by their rows' sums for ``rollout``, which takes another pass.

    Usable inside ``jit`` and ``vmap``; for ``raw`` edges differentiable with respect to queries,
    keys, sinks, weights and residual, in as little memory, the normalisers being taken as a
    function of the others.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> rng = np.random.default_rng(0)
    >>> queries, keys = rng.normal(size=(2, 4, 3, 1000, 8)).astype(np.float32)  # [L, H, n, d]
    >>> layers = [jaxflow.QueryKey(q, k, causal=True) for q, k in zip(queries, keys)]
    >>> rows = jaxflow.rollout_rows(layers, [-1, -2])
    >>> rows.shape, rows.sum(-1).round(3).tolist()
    ((1, 2, 1000), [[1.0, 1.0]])
    """
    if not isinstance(attention, Sequence) or not len(attention):
        raise InputError(
            "attention must be a sequence of jaxflow.QueryKey, one a layer, got "
            f"{type(attention).__name__}"
        )
    for name, value, known in (("edge", edge, Edge), ("how", how, How)):
        if value not in (choices := get_args(known)):
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    tops = resolve_indices("layers", layers, len(attention))
    residual = check_residual(residual)
    each = heads == "each"
    sizes = default_block(rows=True), default_block(rows=False)
    if block is not None:
        sizes = (check_count("block", block),) * 2

    numbers = np.array(tops)
    given: Any = None  # the rows to start with, [..., S, n]
    found: Any = None  # [..., L', (H,) S, n]
    fields: Any = None  # the same under uniform attention, [..., L', S, n]
    for place in range(max(tops), -1, -1):
        layer = _layer(attention, place, edge)
        if given is None:
            given, mask = _start(layer, sources, weights, mask)
        elif layer.shape != (*given.shape[:-2], given.shape[-1]):
            raise InputError(
                f"attention[{place}] must have the texts and tokens of the layers above it, "
                f"{(*given.shape[:-2], given.shape[-1])}, got queries {layer.queries.shape}"
            )
        begin = (numbers == place)[:, None, None]
        fresh = given[..., None, :, :]
        step = partial(_step, layer, mask, residual, how=how, blocks=sizes)
        count = layer.queries.shape[-3]
        head = None if each else _head(heads, count)
        if normalise:
            fields = step(_insert(fields, begin, fresh), edge="uniform", head=None)
        if not each:
            found = step(_insert(found, begin, fresh), edge=edge, head=head)
            continue
        if found is not None:
            found = step(found, edge=edge, head=None)
        if begin.any():
            top = step(fresh, edge=edge, head="each")  # [..., 1, H, S, n]
            found = _insert(found, begin[..., None], top)
    if normalise:
        fields = fields[..., None, :, :] if each else fields
        seen = fields > 0
        found = found * (seen / (fields + ~seen)).astype(found.dtype)
    return found


def _insert(held: Any, begin: Any, fresh: Any) -> Any:
    """Return rows ``[..., L', (H,) S, n]`` in which those of the layers that begin are fresh."""
    namespace: Any = jnp if isinstance(fresh, jax.Array) else np
    where = begin.reshape(*[1] * (fresh.ndim - begin.ndim), *begin.shape)
    return namespace.where(where, fresh, namespace.zeros_like(fresh) if held is None else held)


def _head(heads: Any, count: int) -> int | None:
    if heads == "mean":
        return None
    if isinstance(heads, str):
        raise InputError(f"heads must be 'mean', 'each' or the index of a head, got {heads!r}")
    return resolve_index("heads", heads, count)


def _layer(attention: Sequence[Any], place: int, edge: Edge) -> QueryKey:
    """Return a layer, computed if it is to be, with its arrays checked."""
    name = f"attention[{place}]"
    layer = attention[place]
    layer = layer() if callable(layer) else layer
    if not isinstance(layer, QueryKey):
        raise InputError(f"{name} must be a jaxflow.QueryKey, got {type(layer).__name__}")
    queries = as_array(f"{name}.queries", layer.queries)
    if queries.ndim < 3 or 0 in queries.shape:
        raise InputError(f"{name}.queries must be [..., heads, n, d], got {queries.shape}")
    *texts, heads, n, width = queries.shape
    count = np.shape(layer.keys)[-3] if np.ndim(layer.keys) > 2 else 1
    last = np.shape(layer.values)[-1:]
    shapes: dict[str, tuple[int, ...]] = {
        "queries": queries.shape,
        "keys": (*texts, count, n, width),
        "values": (*texts, count, n, *last),
        "gradients": (*texts, heads, n, *last),
        "sinks": (heads,),
        "normalisers": (*texts, heads, n),
        "projection": (heads, *last, *np.shape(layer.projection)[-1:]),
    }
    needs: dict[str, tuple[str, ...]] = {"raw": (), "norm": ("values", "projection")}
    arrays: dict[str, Any] = {}
    for field, shape in shapes.items():
        value = getattr(layer, field)
        if value is None:
            if field in ("keys", *needs.get(edge, ("values", "gradients"))):
                raise InputError(f"{name}.{field} must be an array of shape {shape}, got None")
            continue
        array = as_array(f"{name}.{field}", value)
        if array.shape != shape:
            raise InputError(f"{name}.{field} must have the shape {shape}, got {array.shape}")
        if array.dtype not in FLOATS and str(array.dtype) not in HALVES:
            raise InputError(f"{name}.{field} must be floating-point, got {array.dtype}")
        if field == "keys" and array.dtype != queries.dtype:
            raise InputError(
                f"{name}.keys must be {queries.dtype} as its queries are, got {array.dtype}"
            )
        # A query without keys has the normaliser infinity.
        if field != "normalisers" and not is_traced(array) and not _finite(array):
            raise InputError(f"{name}.{field} must be finite, got NaN or infinite entries")
        arrays[field] = array
    if heads % count:
        raise InputError(f"{name} must have key heads that divide its {heads} heads, got {count}")
    for field in ("window", "chunk"):
        if (value := getattr(layer, field)) is not None and not is_traced(value):
            check_count(f"{name}.{field}", value)
    for field in ("scale", "soft_cap"):
        value = getattr(layer, field)
        if value is not None and not (np.ndim(value) == 0 and 0 < float(value) < math.inf):
            raise InputError(f"{name}.{field} must be a positive number, got {value!r}")
    if not isinstance(layer.causal, bool | np.bool_):
        raise InputError(f"{name}.causal must be True or False, got {layer.causal!r}")
    return dataclasses.replace(layer, **arrays)


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _finite(array: Array) -> bool:
    return bool(_all_finite(array) if isinstance(array, jax.Array) else np.isfinite(array).all())


def _start(layer: QueryKey, sources: Any, weights: Any, mask: Any) -> tuple[Any, Any]:
    """Return the rows to start with ``[..., S, n]``, and the mask, both checked."""
    shape, n = layer.shape, layer.shape[-1]
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.shape != shape or mask.dtype != np.bool_:
            raise InputError(
                f"mask must be boolean of shape {shape}, got {mask.dtype} {mask.shape}"
            )
    namespace: Any = jnp if isinstance(layer.queries, jax.Array) else np
    kind = np.float64 if layer.queries.dtype == np.float64 else np.float32
    if weights is None:
        index: Any = sources
        if is_traced(sources):
            index = jnp.atleast_1d(jnp.asarray(sources))
        else:
            chosen = resolve_tokens("sources", sources, n, mask)
            index = np.array(chosen) if isinstance(chosen, tuple) else chosen
        namespace = jnp if is_traced(index) else namespace
        rows = (index[..., None] == np.arange(n).reshape(*[1] * index.ndim, n)).astype(kind)
        rows = namespace.where(index[..., None] < n, rows, np.nan)  # only where the mask is traced
    else:
        if sources is not None:
            raise InputError("sources must be None where weights are given")
        rows = as_array("weights", weights)
        if rows.ndim < 2 or rows.shape[-1] != n or rows.shape[:-2] not in ((), shape[:-1]):
            raise InputError(
                f"weights must have the shape {(*shape[:-1], 'rows', n)}, got {rows.shape}"
            )
    rows = namespace.broadcast_to(namespace.asarray(rows, kind), (*shape[:-1], *rows.shape[-2:]))
    return (rows if mask is None else namespace.where(mask[..., None, :], rows, 0)), mask


def _step(layer: QueryKey, mask: Any, residual: Any, rows: Any, **options: Any) -> Any:
    """Return rows ``[..., L', (H,) S, n]`` after one more layer below."""
    flat = rows.reshape(*layer.shape[:-1], -1, layer.shape[-1])
    found = in_own_precision(_product, flat, mask, layer, residual, **options)
    if options["edge"] == "raw" and options["how"] == "rollout" and layer.normalisers is not None:
        _check_totals(found, flat, layer.sinks is not None)
    if options["head"] == "each":
        return found[..., None, :, :, :]
    return found.reshape(rows.shape)


def _check_totals(found: Any, rows: Any, sinks: bool) -> None:
    """Raise `InputError` where a product with attention has changed the sums of rows."""
    if is_traced(found, rows):
        return
    now, size = np.asarray(found.sum(-1)), np.asarray(abs(rows).sum(-1))
    now = now.reshape(*size.shape[:-1], -1, size.shape[-1])
    change = now - np.asarray(rows.sum(-1))[..., None, :]
    if not ((change if sinks else abs(change)) <= _TOTAL * size[..., None, :]).all():
        raise InputError(
            "normalisers must be the natural log of the sum of exp(logits) of these queries and "
            f"keys, got some by which rows change their sums by up to {abs(change).max():.3g}"
        )


@partial(jax.jit, static_argnames=("edge", "head", "how", "blocks"))
def _product(rows: Any, mask: Any, layer: QueryKey, residual: Any, **options: Any) -> jax.Array:
    """Call `_product_of_text` for each text."""
    of_text: Callable[..., jax.Array] = partial(_product_of_text, **options)
    axes: dict[str, Any] = {
        field.name: 0 if field.name in ("queries", "keys", "values", "gradients", "normalisers")
        else getattr(layer, field.name) if field.metadata.get("static") else None
        for field in dataclasses.fields(layer)
    }  # fmt: skip
    for _ in layer.shape[:-1]:
        of_text = jax.vmap(of_text, in_axes=(0, 0, QueryKey(**axes), None))
    return of_text(rows, mask, layer, residual)


def _product_of_text(
    rows: jax.Array,
    mask: jax.Array | None,
    layer: QueryKey,
    residual: Any,
    *,
    edge: str,
    head: int | str | None,
    how: str,
    blocks: tuple[int, int],
) -> jax.Array:
    """Return rows ``[R, n]`` after a layer of one text, for every head ``[H, R, n]``.

    `blocks` are the tokens of a block in products with rows, and in attention itself.
    """
    limits = Limits(mask, layer.window, layer.chunk)
    after = partial(
        _after, rows=rows, limits=limits, residual=residual, edge=edge, how=how, block=blocks[0]
    )
    if isinstance(head, int):
        layer = _one_head(layer, head)
    kept = layer.normalisers
    if kept is None and edge != "uniform":
        empty = jnp.zeros((*layer.keys.shape[:2], 0), rows.dtype)
        pattern = layer.pattern(blocks[1])
        _, kept = attend(pattern, layer.queries, layer.keys, empty, layer.sinks, limits)
    if kept is not None:
        layer = dataclasses.replace(layer, normalisers=lax.stop_gradient(kept).astype(rows.dtype))
    if head == "each":
        return lax.map(lambda at: after(_one_head(layer, at)), jnp.arange(len(layer.queries)))
    return after(layer)


def _one_head(layer: QueryKey, at: Any) -> QueryKey:
    """Return the layer of one text with one of its heads."""
    group = at // (len(layer.queries) // len(layer.keys))
    places = dict.fromkeys(("queries", "gradients", "normalisers", "sinks", "projection"), at)
    places |= {"keys": group, "values": group}
    arrays = {name: getattr(layer, name) for name in places}
    return dataclasses.replace(
        layer,
        **{name: one[places[name]][None] for name, one in arrays.items() if one is not None},
    )


def _after(
    layer: QueryKey,
    *,
    rows: jax.Array,
    limits: Limits,
    residual: Any,
    edge: str,
    how: str,
    block: int,
) -> jax.Array:
    """Return rows ``[R, n]`` after a layer, the mean of its heads."""
    pattern, n = layer.pattern(block), rows.shape[-1]
    pair, z = (layer.queries, layer.keys), layer.normalisers
    if edge == "raw":
        product = lambda rows: attention_rows(pattern, rows, *pair, layer.sinks, z, limits)  # noqa: E731
        return _combined(product, None, rows, residual, how)
    if edge == "uniform":
        edges = uniform_edges(pattern, n, limits, rows.dtype)
    elif edge == "norm":
        edges = norm_edges(pattern, *pair, z, limits, layer.values, layer.projection)
    else:
        factors = (layer.gradients, layer.values)
        edges = attention_edges(pattern, *pair, z, limits, factors, positive=edge == "gradient")
    total = None
    if how == "rollout" and edge != "uniform":
        signed = edges
        edges = lambda a, b: jnp.maximum(signed(a, b), 0)  # noqa: E731
        total = row_sums(pattern, n, edges, limits, rows.dtype)
    product = lambda rows: down(pattern, rows, edges, limits)  # noqa: E731
    return _combined(product, total, rows, residual, how)


def _combined(
    product: Callable[[jax.Array], jax.Array],
    total: jax.Array | None,
    rows: jax.Array,
    residual: Any,
    how: str,
) -> jax.Array:
    """Return rows after a layer; `total` ``[n]`` are its rows' sums, None where they are 1."""
    if how != "rollout":
        return product(rows) + (rows if how == "paths" else 0)
    if total is None:
        return (1 - residual) * product(rows) + residual * rows
    some = (total > 0)[None]
    share = jnp.where(some, (1 - residual) / jnp.where(some, total[None], 1), 0)
    return product(rows * share) + jnp.where(some, residual, 1) * rows
