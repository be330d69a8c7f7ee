"""Compute tables of attention flow: `flow`, `head_flow` and `saturation`.

Each checks its input once, weighs the edges of the attention graph in float64 and hands them to the
kernel. `fallback.flow_by_definition` is the definition of what the kernel computes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, SupportsFloat, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._flow.gradient import FlowOptions, narrowed, traced_flow
from jaxflow._flow.long import FlowInterval, flow_intervals
from jaxflow._flow.threads import (
    CompilerError,
    compiled,
    distribute,
    flow_tables,
    resolve_threads,
)
from jaxflow.attention import (
    ROW_SUM_TOLERANCE,
    Array,
    ArrayLike,
    Indices,
    check_heads,
    check_layout,
    check_residual,
    check_values,
    edge_weights,
    is_traced,
    refuse_traced,
    resolve_indices,
    resolve_tokens,
)
from jaxflow.errors import InputError

# Numbers that are checked and fused at a time: a megabyte or two, which stays in the cache.
_PIECE = 1 << 18

# From so many numbers on compiled code is worth its compilation; a single sentence does without.
_MANY = 1 << 20

#: Seconds on one core beyond which a table is computed with ``patient=True`` only.
LIMIT = 3600.0

# From so many tokens on, few rows of a table are computed on core graphs (`long`), which take
# little memory: at 1,024 causal tokens and 24 layers 3.7 s a row instead of 27.
LONG = 512
FEW = 16

#: How far below its bound a flow may be and count as meeting it.
TOLERANCE = 1e-9


class _Cost(NamedTuple):
    """Measured seconds on one core for each layer below and each n^2 and sink (docs/flow.md).

    `most` is for attention one of whose tokens takes the share `sink` of a layer, `usual` the most
    that any other took.
    """

    usual: float
    most: float
    sink: float


_DENSE, _CORE = _Cost(1.6e-9, 1.4e-8, 0.05), _Cost(1.2e-6, 1.8e-5, 0.5)


def _on_core(n: int, layers: int, sources: int) -> bool:
    return n >= LONG and layers * sources <= FEW


def _check_cost(
    attention: Array, layers: Sequence[int], sources: int, heads: int, sinks: int | None
) -> None:
    """Refuse a table that may take more than `LIMIT` seconds on one core.

    After layer l a flow crosses l layers of n^2 edges, each of all sinks anew; a core graph has
    some n. Of many sources a third counts: under a causal mask most see fewer tokens than the last.
    """
    graphs, n = math.prod(attention.shape[:-4]) * heads, attention.shape[-1]
    core = sinks is not None and _on_core(n, len(layers), sources)
    counted = max(min(sources, FEW), sources / 3)
    size = float(n) * (sinks or n) if core else float(n) ** 3
    work, cost = graphs * sum(layers) * counted * size, _CORE if core else _DENSE
    seconds = work * cost.usual
    if seconds <= LIMIT < work * cost.most:  # only then is it worth reading all attention
        texts = attention.reshape(-1, *attention.shape[-3:])
        shares = (float(np.asarray(layer).mean((0, 1)).max()) for layer in texts)
        if any(share >= max(cost.sink, 8 / n) for share in shares):
            seconds = work * cost.most
    if seconds > LIMIT:
        hours = seconds / 3600
        time = f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
        raise InputError(
            f"flow from {sources:,} sources over {n:,} tokens and {len(layers)} layers"
            + (f" of {graphs:,} sentences" if graphs > 1 else "")
            + f" may take up to {time} on one core: jaxflow.flow(..., interval=True, seconds=600) "
            "returns certified bounds in that time; or name the sources and layers that are "
            "wanted, or pass patient=True"
        )


def _check_table(
    attention: Any,
    mask: Any,
    layers: Any,
    sources: Any,
    patient: bool,
    *,
    per_head: bool = False,
    sinks: int | None = None,
) -> tuple[Array, Array | None, tuple[int, ...], tuple[int, ...]]:
    """Check the layout and the cost of a table; return attention, mask, layers and sources.

    `sinks` is how many are wanted, where core graphs may be used.

    With a mask, negative sources stay as they are: `resolve_tokens` finds them in each text.
    """
    attention, mask = check_layout(attention, mask)
    depth, heads, n = attention.shape[-4:-1]
    levels = resolve_indices("layers", layers, depth)
    chosen = resolve_indices("sources", sources, n, signed=mask is not None)
    if not patient and not is_traced(attention, mask):
        _check_cost(attention, levels, len(chosen), heads if per_head else 1, sinks)
    return attention, mask, levels, chosen


def _weigh(
    attention: Array, mask: Any, residual: Any, heads: str | int, threads: int | None
) -> np.ndarray:
    """Check the values of an attention; return its edge weights ``[..., L, n, n]`` in float64."""
    depth, count, n = attention.shape[-4:-1]
    heads, residual = check_heads(heads, count), check_residual(residual)
    on_host = isinstance(attention, np.ndarray)
    if not on_host:
        check_values(attention, mask, mask)
    flat = np.asarray(attention).reshape(-1, depth, count, n, n)
    real = None if mask is None else np.asarray(mask).reshape(-1, n)
    edges = np.empty((len(flat), depth, n, n))
    step = max(1, _PIECE // (depth * count * n * n))
    weigh = None
    if flat.size >= _MANY and heads not in ("max", "min"):
        first = 0 if heads == "mean" else int(heads) % count
        last = count if heads == "mean" else first + 1
        everyone, one = np.empty((0, n), bool), np.ones((1, 1, 1, 1, 1), flat.dtype)
        with contextlib.suppress(CompilerError):  # flow itself will raise; edges do without
            weigh = compiled("weigh", one, everyone, 0, 1, 0.5, 1e-3, np.ones((1, 1, 1, 1)))

    def weigh_piece(begin: int) -> None:
        part, result = flat[begin : begin + step], edges[begin : begin + step]
        there = None if real is None else real[begin : begin + step]
        if weigh is not None:
            given = everyone if there is None else there
            if weigh(part, given, first, last, residual, ROW_SUM_TOLERANCE, result):
                return
        if on_host:
            check_values(part, there, there)
        weights = edge_weights(part, residual=residual, heads=heads, mask=there, dtype=np.float64)
        result[:] = weights

    try:
        distribute(weigh_piece, range(0, len(flat), step), resolve_threads(threads))
    except InputError:
        check_values(
            attention, mask, mask
        )  # to report what is wrong in the whole, not in one piece
        raise
    return edges.reshape(*attention.shape[:-4], depth, n, n)


def graph_edges(
    attention: Any, residual: Any, heads: str | int, mask: Any, threads: int | None = 1
) -> tuple[np.ndarray, Array | None]:
    """Check an attention; return its edge weights ``[..., L, n, n]`` in float64 and the mask."""
    attention, mask = check_layout(attention, mask)
    return _weigh(attention, mask, residual, heads, threads), mask


@overload
def flow(
    attention: jax.Array,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
    sources: Indices = ...,
    sinks: Indices | Sequence[Sequence[int]] = ...,
    layers: Indices = ...,
    threads: int | None = ...,
    patient: bool = ...,
    interval: Literal[False] = ...,
) -> jax.Array: ...
@overload
def flow(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
    sources: Indices = ...,
    sinks: Indices | Sequence[Sequence[int]] = ...,
    layers: Indices = ...,
    threads: int | None = ...,
    patient: bool = ...,
    interval: Literal[False] = ...,
) -> np.ndarray: ...
@overload
def flow(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = ...,
    heads: str | int = ...,
    mask: ArrayLike | None = ...,
    sources: Indices = ...,
    sinks: Indices | Sequence[Sequence[int]] = ...,
    layers: Indices = ...,
    threads: int | None = ...,
    patient: bool = ...,
    interval: Literal[True],
    width: float = ...,
    seconds: float | None = ...,
) -> FlowInterval: ...
def flow(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
    sources: Indices = None,
    sinks: Indices | Sequence[Sequence[int]] = None,
    layers: Indices = None,
    threads: int | None = None,
    patient: bool = False,
    interval: bool = False,
    width: float = 0.0,
    seconds: float | None = None,
) -> Any:
    r"""Return exact attention flow (Abnar and Zuidema 2020), the maximum flow to the input tokens.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[..., n]`` boolean, True at real tokens. Flow from or to a padded token is 0.
    sources
        Tokens whose embeddings are explained: an index, a sequence of them, or None for all. With a
        mask negative ones count from each text's own end: -1 is its last real token. Inside ``jit``
        the row of one that a text is too short for is NaN.
    sinks
        Input tokens to which flow is computed: an index, a sequence of them, or None for all. A
        sequence of sequences names groups, such as the pieces of a word or the tokens of a passage:
        flow to a group is the maximum flow to all its tokens together, at most the sum of theirs.
        Groups may overlap; not inside ``jit``.
    layers
        Layers at which they are taken, 0-based, in the same forms; 0 is the lowest.
    threads
        How many threads share the work; None takes all cores. The result does not depend on it.
    patient
        Whether to begin what may take more than an hour on one core, such as all flows between
        4,096 tokens, which may take weeks.
    interval
        Whether to return bounds, which take little memory at any length; not inside ``jit``.
    width, seconds
        With `interval`: how wide an interval may stay, and after how many seconds to stop. What is
        left by then keeps the bounds that are known.

    Returns
    -------
    array
        ``[..., L', S, n]``, with `sinks` ``[..., L', S, T]``, not normalised: entry ``[l, s, t]``
        is the largest amount that can be sent from token s after layer l to input token t.
        Float64 NumPy; for JAX input a JAX array in the dtype of `attention`, where no value is
        rounded above ``min(1, column sum)``. With `interval` a `FlowInterval` of such arrays,
        `lower` and `upper`, in float64 of NumPy: where they are equal, flow is exact.

    Raises
    ------
    InputError
        If the attention, the mask, an option or an index is not usable, or the work may take more
        than an hour and `patient` is False.

    Notes
    -----
    .. math:: F^{(l)}[s, t] = \max \text{flow from } (l, s) \text{ to } (0, t)

    on the graph whose edge :math:`(l, i) \to (l - 1, j)` has the capacity :math:`A^{(l)}[i, j]`,
    :math:`A = (1 - r) W + r I` [1]_. Computed on the host, in float64, and exact to 1e-9.

    The derivative of an entry with respect to the edges is 1 on the edges of its minimum cut and 0
    elsewhere. Where there are several such cuts, flow has a kink and the one nearest to the source
    gives a subgradient. Reverse mode only, and once: the derivative itself is a step function.

    Attention in float32 is a rounded one: as a cut's value is a sum of its edges, flow is off by at
    most the share :math:`2^{-23}` of itself, however many layers there are.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.full((2, 1, 2, 2), 0.5)
    >>> jaxflow.flow(attention, sources=0)
    array([[[0.75, 0.25]],
    <BLANKLINE>
           [[1.  , 0.5 ]]])
    """
    if not interval and (width != 0 or seconds is not None):
        raise InputError("width and seconds are those of an interval: pass interval=True with them")
    n = check_layout(attention, mask)[0].shape[-1]
    groups = None if sinks is None else _groups(sinks, n, mask is not None)
    attention, mask, levels, chosen = _check_table(
        attention, mask, layers, sources, patient or interval or is_traced(residual),
        sinks=n if groups is None else len(groups),
    )  # fmt: skip
    joined = groups is not None and any(len(group) > 1 for group in groups)
    picked = None if groups is None else [group[0] for group in groups]
    if not is_traced(attention, residual, mask):
        rows = resolve_tokens("sources", chosen, n, mask)
        if interval or joined or _on_core(n, len(levels), len(chosen)):
            found = flow_intervals(
                attention, mask, check_residual(residual),
                check_heads(heads, attention.shape[-3]), levels, rows, groups, width, seconds,
            )  # fmt: skip
            if interval:
                return found
            if isinstance(attention, np.ndarray):
                return found.upper
            return jnp.asarray(_rounded_down(found.upper, attention.dtype))
        edges = _weigh(attention, mask, residual, heads, threads)
        flows: Any = flow_tables(edges, levels, rows, threads)
        if not isinstance(attention, np.ndarray):
            flows = jnp.asarray(narrowed(flows, edges, attention.dtype))
        return flows if picked is None else flows[..., picked]
    if interval or joined:
        name, needed = ("interval", "be False") if interval else ("sinks", "be single tokens")
        raise InputError(f"{name} must {needed} inside jit, vmap and grad")
    if not is_traced(attention, mask):
        check_values(attention, mask, mask)
    heads = check_heads(heads, attention.shape[-3])
    options = FlowOptions(heads, levels, chosen, resolve_threads(threads))
    flows = traced_flow(options, jnp.asarray(attention), check_residual(residual), mask)
    return flows if picked is None else flows[..., np.array(picked)]


def _groups(sinks: Any, n: int, masked: bool) -> list[tuple[int, ...]]:
    """Return groups of sinks, each in ascending order; a single token is a group."""
    several = isinstance(sinks, Iterable) and not isinstance(sinks, str)
    numbers = [np.asarray(one) for one in jax.tree.leaves(sinks)]
    if masked and any(one.dtype.kind == "i" and (one < 0).any() for one in numbers):
        raise InputError(
            "sinks must be counted from 0 where there is a mask, because the texts end at "
            f"different places, got {sinks!r}"
        )
    if not several or getattr(sinks, "ndim", 1) == 0:
        return [resolve_indices("sinks", sinks, n)]
    given = list(sinks) or resolve_indices("sinks", (), n)
    groups = [one if isinstance(one, Sequence | np.ndarray) else [one] for one in given]
    return [tuple(sorted(set(resolve_indices("sinks", group, n)))) for group in groups]


def _rounded_down(flows: np.ndarray, dtype: Any) -> np.ndarray:
    """Return flows in another dtype, none above what it was, so that none is above its bound."""
    found = flows.astype(dtype)
    return np.where(found > flows, np.nextafter(found, np.zeros((), dtype)), found)


def head_flow(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    mask: ArrayLike | None = None,
    sources: Indices = None,
    layers: Indices = None,
    threads: int | None = None,
    patient: bool = False,
) -> np.ndarray:
    r"""Return attention flow of single heads: one head on top, lower layers averaged over heads.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    mask
        ``[..., n]`` boolean, True at real tokens.
    sources, layers
        As in `jaxflow.flow`.
    threads
        None takes all cores.
    patient
        As in `jaxflow.flow`.

    Returns
    -------
    ndarray
        float64 ``[..., L', H, S, n]``: maximum flow values. With one head it is `jaxflow.flow`.

    Raises
    ------
    InputError
        For an argument that is not usable.

    Notes
    -----
    The counterpart of `jaxflow.head_rollout` (appendix A.1 of [1]_). With :math:`A^{(l)}` the
    averaged and :math:`A^{(l, k)}` head k's edges of layer l, both with the residual connection,
    head k's flow after layer l is the maximum flow in the graph of
    :math:`A^{(1)}, \ldots, A^{(l - 1)}, A^{(l, k)}`.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.array([[[[1, 0], [0, 1]], [[0, 1], [1, 0]]]], np.float64)
    >>> jaxflow.head_flow(attention, sources=0)[0, :, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    refuse_traced("head_flow", attention, residual, mask)
    attention, mask, levels, chosen = _check_table(
        attention, mask, layers, sources, patient, per_head=True
    )
    residual, real = check_residual(residual), None if mask is None else np.asarray(mask)
    below = _weigh(attention, mask, residual, "mean", threads)
    tops: Any = edge_weights(
        np.asarray(attention), residual=residual, heads=None, mask=real, dtype=np.float64
    )
    tops = np.moveaxis(tops, -3, -4)  # [..., H, L, n, n]
    found = flow_of_tops(
        tops,
        np.broadcast_to(below[..., None, :, :, :], tops.shape),
        mask=None if real is None else real[..., None, :],
        sources=chosen,
        layers=levels,
        threads=threads,
        patient=True,
    )
    return np.moveaxis(found, -4, -3)


def flow_of_tops(
    tops: Array,
    below: Array,
    *,
    mask: Array | None = None,
    sources: Indices = None,
    layers: Indices = None,
    threads: int | None = None,
    patient: bool = False,
) -> Any:
    """Return flow ``[..., L', S, n]`` where each layer has other edges on top than further down.

    Both are ``[..., L, n, n]`` with rows that sum to 1: `tops` the edges of a layer that is
    explained, `below` those of a layer with others above it. `mask` ``[..., n]`` broadcasts; the
    rest as in `flow`.
    """
    depth, n = tops.shape[-3], tops.shape[-1]
    namespace: Any = jnp if isinstance(tops, jax.Array) else np
    real = None if mask is None else namespace.broadcast_to(mask, (*tops.shape[:-3], n))
    parts = []
    for layer in resolve_indices("layers", layers, depth):
        top = tops[..., layer : layer + 1, :, :]
        graph = namespace.concatenate([below[..., :layer, :, :], top], axis=-3)
        options: dict[str, Any] = {"mask": real, "sources": sources, "threads": threads}
        parts.append(
            flow(graph[..., None, :, :], residual=0, layers=layer, patient=patient, **options)
        )
    return namespace.concatenate(parts, axis=-3)


class Saturation(NamedTuple):
    """The result of `saturation`: bounds, and the pairs whose flow meets them.

    Attributes
    ----------
    bound
        ``[..., n]`` float64: ``min(1, sum_q A[0][q, t])``, 0 at padded tokens.
    reached
        ``[..., L', S, n]`` bool: whether the pair's flow meets the bound; False at padded tokens.
    share
        ``[..., L']`` float64: the share of the pairs of real tokens that do, NaN without any.
    onset
        ``[...]`` int: the layer from which flow no longer depends on the source. The lowest of the
        chosen layers, 0-based, such that there and in every chosen layer above it the flow of every
        chosen real source to every real sink meets the bound; L, one past the top, if there is
        none.
    sink_onset
        ``[..., n]`` int: the same for each sink alone; L at padded tokens. The largest over the
        real sinks is `onset`.
    """

    bound: np.ndarray
    reached: np.ndarray
    share: np.ndarray
    onset: np.ndarray
    sink_onset: np.ndarray


def saturation(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
    sources: Indices = None,
    layers: Indices = None,
    threads: int | None = None,
    patient: bool = False,
) -> Saturation:
    """Return the column-sum bound on flow, where flow meets it, and from which layer on.

    Parameters
    ----------
    attention, residual, heads, mask, sources, layers, threads, patient
        As for `jaxflow.flow`.

    Returns
    -------
    Saturation
        Bound, pairs that meet it, their share per layer, and the layer from which all do.

    Raises
    ------
    InputError
        If an argument is not usable.

    Notes
    -----
    No more can reach input token t than its column of the lowest layer admits, and no more can
    leave a token than the 1 of its row: ``flow <= min(1, sum_q A[0][q, t])`` for every layer and
    source. A pair on this bound depends neither on its source nor on any layer but the lowest. Once
    all sources of a layer are on the bound of a sink, those of every layer above are, too
    (docs/flow.md): from that layer on, flow to this sink no longer depends on the source.

    A pair meets the bound when it is short of it by at most `TOLERANCE` (1e-9), plus, for rows
    that do not quite sum to 1 as in float32, what these can cost: their largest deviation from 1
    times the number of layers.

    `onset` holds for the chosen sources and layers alone. With all sources it holds for every layer
    above, chosen or not; a lower layer that was not chosen may have met the bound first.
    With some sources only, one of them may leave the bound again further up: hence the condition
    on every chosen layer above. Flow may lose its source earlier and short of the bound, where a
    layer between passes everything through one token; that is not detected here.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> result = jaxflow.saturation(np.full((5, 1, 2, 2), 0.5))
    >>> result.share
    array([0. , 0.5, 0.5, 1. , 1. ])
    >>> int(result.onset)
    3
    """
    refuse_traced("saturation", attention, residual, mask)
    attention, mask, levels, chosen = _check_table(attention, mask, layers, sources, patient)
    depth, n = attention.shape[-4], attention.shape[-1]
    rows = resolve_tokens("sources", chosen, n, mask)
    edges = _weigh(attention, mask, residual, heads, threads)
    flows = flow_tables(edges, levels, rows, threads)
    real = np.ones((*edges.shape[:-3], n), bool) if mask is None else np.asarray(mask)
    asked = np.broadcast_to(np.asarray(rows), (*real.shape[:-1], len(chosen)))
    asked = np.take_along_axis(real, asked, -1)  # [..., S]: whether the source is a real token

    bound = np.minimum(1.0, edges[..., 0, :, :].sum(-2))
    deviation = np.where(real[..., None, :], np.abs(edges.sum(-1) - 1), 0).max((-2, -1))
    slack = TOLERANCE + depth * deviation
    pairs = (asked[..., None] & real[..., None, :])[..., None, :, :]
    least = (bound - slack[..., None])[..., None, None, :]
    reached = (flows >= least) & pairs
    count = pairs.sum((-2, -1))
    with np.errstate(invalid="ignore"):
        share = reached.sum((-2, -1)) / count
    # All sources that are real, of which there must be one.
    met = (reached.sum(-2) == pairs.sum(-2)) & pairs.any(-2)
    sink_onset = _onset(met, np.array(levels), depth)
    onset = np.where(real, sink_onset, 0).max(-1)
    return Saturation(bound, reached, share, np.where(count[..., 0] > 0, onset, depth), sink_onset)


def _onset(met: np.ndarray, levels: np.ndarray, depth: int) -> np.ndarray:
    """Return the lowest of `levels` from which ``met[..., L', n]`` holds throughout, or `depth`."""
    downward = np.argsort(-levels)
    lasting = np.logical_and.accumulate(met[..., downward, :], axis=-2)
    # Levels may come twice and in any order: the least one, not how many there are.
    return np.where(lasting, levels[downward][:, None], depth).min(-2)
