"""Compute flow of long texts: a core graph with lazy cuts, exact, in little memory.

For each sink the maximum flow of the core (`core`) is a lower bound, and simple cuts are an upper
one. Where they differ, the weight in the whole graph of the core's minimum cuts is an upper bound
too, and either it equals the core's flow, or the heaviest edges that cross the cuts and are not in
the core are added to it. Each round tightens the interval, and the last one ends with its width 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow.attention import ROW_SUM_TOLERANCE, check_values, edge_weights
from jaxflow.errors import InputError

#: Numbers of attention that are read at a time from a layer that is a function.
_PIECE = 1 << 22
#: Columns of sinks that are kept at a time, in numbers.
_COLUMNS = 1 << 24
#: Rows that are transposed at a time, which stay in the cache.
_TILE = 128
# Gaps that count as none.
_CLOSE = 1e-11


class FlowInterval(NamedTuple):
    """The result of `flow` with ``interval=True``: lower and upper bounds on flow.

    Attributes
    ----------
    lower, upper
        ``[..., L', S, T]`` float64: the flow is between them; where they are equal it is exact.
    """

    lower: np.ndarray
    upper: np.ndarray

    @property
    def width(self) -> np.ndarray:
        """The width of each interval."""
        return self.upper - self.lower


class Limits(NamedTuple):
    """Where to stop: `width` of an interval, and a time of `time.monotonic`."""

    width: float
    deadline: float


class Layers:
    """Edge weights of one text, read by rows and by columns from whatever holds its attention.

    A layer is an array ``[H, n, n]``, a SciPy sparse matrix ``[n, n]`` of fused heads, or a
    function of the first and the last row, excluded, that returns rows ``[H, rows, n]``.
    """

    def __init__(
        self, layers: Sequence[Any], n: int, residual: float, heads: str | int, mask: Any
    ) -> None:
        self.n, self.depth, self.residual = n, len(layers), residual
        self.real = np.ones(n, bool) if mask is None else np.asarray(mask)
        self._heads = heads
        self._layers = [self._prepared(layer) for layer in layers]

    def _prepared(self, layer: Any) -> Any:
        if not hasattr(layer, "tocsr"):
            return layer
        from scipy import sparse

        rows = (1 - self.residual) * layer.tocsr().astype(np.float64)
        rows = sparse.csr_array(rows + self.residual * sparse.eye_array(self.n))
        rows.sum_duplicates()
        return rows

    def pieces(self, x: int) -> Iterator[tuple[int, int, Any]]:
        """Yield begin, end and rows of a layer: ``[H, rows, n]``, or a sparse matrix."""
        layer = self._layers[x]
        if not callable(layer):
            yield 0, self.n, layer
            return
        step = max(1, _PIECE // self.n)
        for begin in range(0, self.n, step):
            end = min(begin + step, self.n)
            rows = np.asarray(layer(begin, end))
            yield begin, end, rows if rows.ndim == 3 else rows[None]

    def chosen_heads(self, count: int) -> tuple[int, int]:
        """Return the first and the last head, excluded, that are averaged."""
        if self._heads == "mean":
            return 0, count
        first = int(self._heads) % count
        return first, first + 1

    def fused(self, block: Any, begin: int, rows: Any, keys: Any) -> np.ndarray:
        """Return edge weights ``[rows, keys]`` of a piece; its rows are counted from `begin`.

        Both are arrays of indices, or slices, which copy nothing else.
        """
        everyone = np.arange(self.n)
        here = everyone[rows] - begin
        if isinstance(rows, slice):
            here = slice(rows.start - begin, rows.stop - begin)
        if hasattr(block, "tocsr"):
            return np.asarray(block[here][:, keys].toarray())
        first, last = self.chosen_heads(len(block))
        picked = block[first:last, here][:, :, keys].astype(np.float64)
        weights = (1 - self.residual) * (picked.sum(0) / (last - first))
        weights += self.residual * (everyone[rows][:, None] == everyone[keys])
        return np.asarray(weights * (self.real[rows][:, None] & self.real[keys]))

    def columns(self, groups: Sequence[tuple[int, ...]], top: int) -> np.ndarray:
        """Return ``[groups, top + 1, n]``: what each token of each layer sends to each group.

        In layers above the lowest, a group stands for its first token.
        """
        result = np.empty((len(groups), top + 1, self.n))
        sinks: Any = np.array([group[0] for group in groups])
        if (np.diff(sinks) == 1).all():
            sinks = slice(sinks[0], sinks[-1] + 1)
        for x in range(top + 1):
            for begin, end, block in self.pieces(x):
                for low in range(begin, end, _TILE):
                    rows = slice(low, min(low + _TILE, end))
                    result[:, x, rows] = self.fused(block, begin, rows, sinks).T
                    for at, group in enumerate(groups if x == 0 else ()):
                        if len(group) > 1:
                            joined = self.fused(block, begin, rows, np.array(group))
                            result[at, 0, rows] = joined.sum(1)
        return result

    def rows(self, sources: np.ndarray) -> np.ndarray:
        """Return ``[sources, L, n]``: the rows of the sources in every layer."""
        result, everyone = np.empty((len(sources), self.depth, self.n)), np.arange(self.n)
        for x in range(self.depth):
            for begin, end, block in self.pieces(x):
                here = (sources >= begin) & (sources < end)
                if here.any():
                    result[here, x] = self.fused(block, begin, sources[here], everyone)
        return result


class Core(NamedTuple):
    """What is kept of a text for all its sources and sinks."""

    tails: np.ndarray  # ascending numbers of nodes, as in `core`
    keys: np.ndarray
    weights: np.ndarray
    diagonal: np.ndarray  # [L, n]
    causal: bool


def read_core(layers: Layers, count: int) -> Core:
    """Check the attention, and take the diagonal and the `count` largest arcs of each token."""
    from jaxflow._flow.core import read_dense, read_sparse

    n, depth = layers.n, layers.depth
    diagonal, later = np.zeros((depth, n)), False
    tails, keys, weights = [], [], []
    for x in range(depth):
        for begin, end, block in layers.pieces(x):
            chosen, values = np.full((end - begin, count), -1), np.zeros((end - begin, count))
            if hasattr(block, "tocsr"):
                _check_sparse(block, x)
                later |= read_sparse(
                    block.indptr, block.indices, block.data, begin, chosen, values,
                    diagonal[x, begin:end],
                )  # fmt: skip
            else:
                first, last = layers.chosen_heads(len(block))
                sound, beyond = read_dense(
                    block, begin, first, last, layers.residual, layers.real, ROW_SUM_TOLERANCE,
                    chosen, values, diagonal[x, begin:end],
                )  # fmt: skip
                later |= beyond
                if not sound:
                    real = layers.real
                    check_values(block[None], real[None, begin:end], real[None])
            if x > 0:
                row, place = np.nonzero(chosen >= 0)
                tails.append(x * n + begin + row)
                keys.append(chosen[row, place])
                weights.append(values[row, place])
    parts = [np.concatenate(part) if part else np.zeros(0) for part in (tails, keys, weights)]
    return Core(parts[0].astype(np.int64), parts[1].astype(np.int64), parts[2], diagonal, not later)


def _check_sparse(block: Any, x: int) -> None:
    sums = block.sum(1)
    if not (np.abs(sums - 1) <= ROW_SUM_TOLERANCE).all() or (block.data < 0).any():
        raise InputError(f"rows of the sparse layer {x} must be non-negative and sum to 1")


def _added(core: Core, tails: np.ndarray, keys: np.ndarray, weights: np.ndarray) -> Core:
    """Return a core with more arcs, none of which it holds already."""
    every = np.concatenate([core.tails, tails])
    order = np.argsort(every, kind="stable")
    return core._replace(
        tails=every[order],
        keys=np.concatenate([core.keys, keys])[order],
        weights=np.concatenate([core.weights, weights])[order],
    )


class _Source:
    """Flows from one token of one layer: its core, which grows from sink to sink."""

    def __init__(self, layers: Layers, core: Core, rows: np.ndarray, layer: int, source: int):
        self.layers, self.first_core, self.core = layers, core, core
        self.rows, self.layer, self.source = rows, layer, source
        self.last = source + 1 if core.causal else layers.n
        self.graph: Any = None

    def _solve(self, sink: int, first: int, column: np.ndarray, bound: float) -> float:
        from jaxflow._flow.core import build, solve

        n, core = self.layers.n, self.core
        if self.graph is None:
            self.graph = build(
                n, self.layer, self.source, self.last, core.tails, core.keys, core.weights,
                core.diagonal, self.rows,
            )  # fmt: skip
        supply = self.rows[self.layer]
        return float(
            solve(self.graph, n, self.source, sink, first, self.last, supply, column, bound)
        )

    def flow(self, sink: int, column: np.ndarray, limits: Limits) -> tuple[float, float]:
        """Return a lower and an upper bound on the flow to a sink; equal where it is exact."""
        from jaxflow._flow.core import CLOSE, sides, simple_bound

        n, layer, source = self.layers.n, self.layer, self.source
        if layer == 0:
            return column[0, source], column[0, source]
        first = sink if self.core.causal else 0
        if first >= self.last:
            return 0.0, 0.0
        upper = simple_bound(self.rows, column, source, sink, layer, first, self.last)
        lower, added = 0.0, 4 * n
        while True:
            if time.monotonic() > limits.deadline:
                return lower, upper
            lower = max(lower, self._solve(sink, first, column, upper))
            if lower >= upper - CLOSE:
                return upper, upper
            if upper - lower <= limits.width:
                return lower, upper
            inside = np.empty((2, layer, n), bool)
            sides(self.graph, n, source, sink, first, self.last, inside)
            crossing, *arcs = self._cross(sink, first, column, inside, added)
            upper = min(upper, crossing)
            if upper - lower <= max(_CLOSE, limits.width) or not len(arcs[0]):
                exact = upper - lower <= _CLOSE
                return (lower, lower) if exact else (lower, upper)
            self.core, self.graph = _added(self.core, *arcs), None
            added *= 2

    def forget(self) -> None:
        """Drop what was added to the core once it is more than what was there."""
        if len(self.core.tails) > 2 * len(self.first_core.tails) + self.layers.n:
            self.core, self.graph = self.first_core, None

    def _cross(
        self, sink: int, first: int, column: np.ndarray, inside: np.ndarray, added: int
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return the weight of the lighter of two cuts in the whole graph, and arcs to be added."""
        from jaxflow._flow.core import Found, cross_dense, cross_sparse

        layers, n, core, last = self.layers, self.layers.n, self.core, self.last
        window = slice(first, last)
        total = np.empty(2)
        for cut in range(2):
            total[cut] = self.rows[self.layer, window][~inside[cut, -1, window]].sum()
            total[cut] += column[0, window][inside[cut, 0, window]].sum()
        parts = []
        room = max(4, min(64, 4 * added // n))
        for x in range(1, self.layer):
            if not any(
                inside[cut, x, window].any() and not inside[cut, x - 1, window].all()
                for cut in range(2)
            ):
                continue
            low, high = np.searchsorted(core.tails, [x * n, (x + 1) * n])
            held = core.tails[low:high], core.keys[low:high]
            for begin, end, block in layers.pieces(x):
                keys, weights = np.full((end - begin, room), -1), np.zeros((end - begin, room))
                found = Found(total, keys, weights)
                place = x, inside, first, last, sink, self.source, *held, found
                if hasattr(block, "tocsr"):
                    cross_sparse(block.indptr, block.indices, block.data, begin, *place)
                else:
                    heads = layers.chosen_heads(len(block))
                    cross_dense(block, begin, *heads, layers.residual, layers.real, *place)
                row, at = np.nonzero(keys >= 0)
                parts.append((x * n + begin + row, keys[row, at], weights[row, at]))
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
        if not joined:
            joined = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)]
        if len(joined[2]) > added:
            heaviest = np.argpartition(-joined[2], added)[:added]
            joined = [part[heaviest] for part in joined]
        return float(total.min()), joined[0], joined[1], joined[2]


def intervals(
    layers: Layers,
    levels: Sequence[int],
    sources: Sequence[int],
    sinks: Sequence[tuple[int, ...]],
    limits: Limits,
    count: int = 4,
) -> FlowInterval:
    """Return bounds ``[L', S, T]`` on the flows from tokens of some layers to groups of tokens.

    All tokens of a group send to one sink, and none is on a path before its first one in a causal
    text. The core's own nodes are those of the first: a vertical line serves whatever the sink is.
    """
    core = read_core(layers, count)
    shape = len(levels), len(sources), len(sinks)
    lower, upper = np.zeros(shape), np.zeros(shape)
    rows = layers.rows(np.array(sources))
    step = max(1, _COLUMNS // (layers.n * (max(levels) + 1)))
    pairs = [(at, place) for at in range(shape[0]) for place in range(shape[1])]
    from_token = {
        (at, place): _Source(layers, core, rows[place], levels[at], sources[place])
        for at, place in pairs
    }
    for begin in range(0, shape[2], step):
        here = sinks[begin : begin + step]
        columns = layers.columns(here, max(levels))
        for at, place in pairs:
            source = from_token[at, place]
            for offset, group in enumerate(here):
                found = source.flow(group[0], columns[offset], limits)
                lower[at, place, begin + offset], upper[at, place, begin + offset] = found
                source.forget()
            source.graph = source.graph if len(pairs) == 1 else None
    return FlowInterval(lower, upper)


def flow_intervals(
    attention: Any,
    mask: Any,
    residual: Any,
    heads: str | int,
    levels: Sequence[int],
    sources: Any,
    sinks: Sequence[tuple[int, ...]] | None,
    width: float,
    seconds: float | None,
) -> FlowInterval:
    """Return bounds ``[..., L', S, T]`` on the flows of texts, exact where nothing limits them."""
    for name, value in (("width", width), ("seconds", seconds)):
        if value is not None and not (isinstance(value, int | float) and 0 <= value < np.inf):
            raise InputError(f"{name} must be a number from 0, got {value!r}")
    deadline = np.inf if seconds is None else time.monotonic() + seconds
    values = np.asarray(attention)
    batch, n = values.shape[:-4], values.shape[-1]
    flat = values.reshape(-1, *values.shape[-4:])
    real = None if mask is None else np.asarray(mask).reshape(-1, n)
    each = np.broadcast_to(np.asarray(sources), (*batch, np.shape(sources)[-1]))
    groups = [(token,) for token in range(n)] if sinks is None else sinks
    parts = []
    for b, (text, own) in enumerate(zip(flat, each.reshape(len(flat), -1), strict=True)):
        there = None if real is None else real[b]
        share, fusing = float(residual), heads
        if heads in ("max", "min"):
            check_values(text, there, there)
            weighed = edge_weights(text, residual=residual, heads=heads, mask=there, dtype="f8")
            text, share, fusing = np.asarray(weighed)[:, None], 0.0, "mean"
        layers = Layers(list(text), n, share, fusing, there)
        limits = Limits(float(width), deadline)
        parts.append(intervals(layers, levels, own.tolist(), groups, limits))
    lower, upper = (np.stack(part) for part in zip(*parts, strict=True))
    shape = *batch, *lower.shape[1:]
    return FlowInterval(lower.reshape(shape), upper.reshape(shape))
