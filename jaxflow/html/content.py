"""Compute the numbers of a page: scores by layer and head, edges, cuts, and their compact forms."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.cut import FlowCut, cut_edges
from jaxflow._flow.table import flow, graph_edges
from jaxflow._rollout import rollout
from jaxflow.attention import (
    check_attention,
    check_one_sentence,
    check_residual,
    refuse_traced,
    resolve_token,
)
from jaxflow.errors import InputError

#: Cuts to input tokens are always computed; those to tokens of layers between only up to so many,
#: because each takes milliseconds where layers and tokens are many.
MOST_INNER = 600

#: Rounding steps of attention maps, from finer than a picture shows to the coarsest that still
#: distinguishes two shades.
STEPS = (0.0001, 0.001, 0.002, 0.005)
MOST_EDGES = 5000
LEVEL = 2  # at which Bokeh compresses
SAMPLE = 24  # maps from which the size of all is estimated


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """One sentence of n tokens.

    Attributes
    ----------
    tokens
        The n tokens, unchanged.
    attention
        float ``[L, H, n, n]``.
    source
        Index of the token explained, ``[CLS]`` where there is one.
    residual
        Share of the residual connection.
    layered
        Method -> float64 ``[L, 1 + H, n]``: the source's row after every layer, first with the
        mean of the heads, then with each head alone.
    plain
        Method -> float64 ``[n]``: scores that have neither layers nor heads.
    edges
        float64 ``[L, n, n]``, the weights of the attention graph, residual connection included.
    cuts
        The minimum cuts between the source after the top layer and a node ``(level, token)``;
        level 0 are the input tokens, level l the tokens after layer l.
    """

    tokens: tuple[str, ...]
    attention: NDArray[np.floating]
    source: int
    residual: float
    layered: Mapping[str, NDArray[np.float64]]
    plain: Mapping[str, NDArray[np.float64]]
    edges: NDArray[np.float64]
    cuts: Mapping[tuple[int, int], FlowCut]

    @property
    def flows(self) -> NDArray[np.float64]:
        """The source's flow after the top layer to each input token, ``[n]``."""
        return np.array([self.cuts[0, token].value for token in range(len(self.tokens))])


def prepare(
    attention: Any,
    tokens: Sequence[str] | None = None,
    *,
    scores: Mapping[str, Any] | None = None,
    residual: float = 0.5,
    mask: Any = None,
    source: int = 0,
) -> Content:
    """Compute the content of a page; the arguments are those of `jaxflow.show`."""
    refuse_traced("show", attention, residual, mask)
    checked, mask = check_attention(attention, mask)
    check_one_sentence(checked)
    weights = np.asarray(checked)
    residual = float(check_residual(residual))
    n = weights.shape[-1]
    source = resolve_token("source", source, n, mask)
    names = _names(tokens, n)
    extra = {name: _one_score(name, values, n) for name, values in (scores or {}).items()}
    if mask is not None:
        (real,) = np.nonzero(mask)
        if source not in real:
            raise InputError(f"source must be a real token, got {source}, which mask leaves out")
        weights = weights[..., real[:, None], real]
        names = tuple(names[place] for place in real)
        extra = {name: values[real] for name, values in extra.items()}
        source = int(np.searchsorted(real, source))
    edges, _ = graph_edges(weights, residual, "mean", None)
    layered = _layered(weights, residual, source)
    if twice := extra.keys() & layered.keys():
        raise InputError(f"scores must not be named {' or '.join(layered)}, got {sorted(twice)}")
    return Content(names, weights, source, residual, layered, extra, edges, _cuts(edges, source))


def _names(tokens: Sequence[str] | None, n: int) -> tuple[str, ...]:
    if tokens is None:
        return tuple(str(place) for place in range(n))
    if isinstance(tokens, str) or len(tokens) != n:
        raise InputError(f"tokens must be {n} words, one for each token, got {tokens!r}")
    return tuple(str(token) for token in tokens)


def _one_score(name: str, values: Any, n: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise InputError(
            f"scores must hold one finite number for each of the {n} tokens, got "
            f"{name!r} of shape {array.shape}"
        )
    return array


def _layered(
    weights: NDArray[np.floating], residual: float, source: int
) -> dict[str, NDArray[np.float64]]:
    # The mean of the heads, then every head alone, as a batch of sentences with one head each.
    fused = np.concatenate([weights.mean(1, keepdims=True), weights], 1)
    batch = np.moveaxis(fused, 1, 0)[:, :, None]
    rows = {
        "raw attention": fused[:, :, source],
        "rollout": np.moveaxis(rollout(batch, residual=residual, sources=source), 0, 1)[:, :, 0],
        "flow": np.moveaxis(flow(batch, residual=residual, sources=source), 0, 1)[:, :, 0],
    }
    return {name: np.asarray(values, np.float64) for name, values in rows.items()}


def _cuts(edges: NDArray[np.float64], source: int) -> dict[tuple[int, int], FlowCut]:
    depth, n = edges.shape[:2]
    levels = range(depth if (depth - 1) * n <= MOST_INNER else 1)
    cuts = {}
    for level in levels:
        for token in range(n):
            # Layers below the sink carry nothing to it.
            cut = cut_edges(edges[level:], depth - 1 - level, source, token)
            lifted = tuple((layer + level, query, key) for layer, query, key in cut.edges)
            cuts[level, token] = FlowCut(cut.value, lifted)
    return cuts


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Attention rounded to `steps` of the weight `step`.

    ``[L, K, n, n]``: the mean of the heads and then, if they are kept, each head.
    """

    steps: NDArray[np.uint16]
    step: float

    @property
    def heads(self) -> int:
        """Return the number of heads kept beside their mean."""
        return self.steps.shape[1] - 1


def rounded_maps(attention: NDArray[np.floating], budget: int) -> Maps:
    """Round attention ``[L, H, n, n]`` as finely as fits `budget` bytes, compressed, as text.

    Where no step is coarse enough, only the mean of the heads is kept, in the finest step.
    """
    maps = np.concatenate([attention.mean(1, keepdims=True), attention], 1)
    for step in STEPS:
        rounded = _round(maps, step)
        if _written(rounded) <= budget:
            return Maps(rounded, step)
    return Maps(_round(maps[:, :1], STEPS[0]), STEPS[0])


def _round(maps: NDArray[np.floating], step: float) -> NDArray[np.uint16]:
    return np.rint(maps / step).astype(np.uint16)


def _written(maps: NDArray[np.uint16]) -> int:
    # Base 64 turns 3 bytes into 4; each map is written by itself, with a name for every part.
    flat = maps.reshape(-1, *maps.shape[-2:])
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    sizes = [len(zlib.compress(one.tobytes(), LEVEL)) * 4 // 3 + 120 for one in sample]
    return len(flat) * sum(sizes) // len(sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """The heaviest edges of the attention graph, each field ``[E]``, the heaviest last.

    `total` is the number of edges of the graph, `share` the part of their weight that these carry.
    """

    layer: NDArray[np.intp]
    query: NDArray[np.intp]
    key: NDArray[np.intp]
    weight: NDArray[np.float64]
    total: int
    share: float


def heaviest_edges(weights: NDArray[np.float64], most: int | None = None) -> Edges:
    """Keep the heaviest edges of a graph with weights ``[L, n, n]``; of equal ones the lowest."""
    flat = weights.ravel()
    total = int(np.count_nonzero(flat))
    kept = np.argsort(-flat, kind="stable")[: min(most or MOST_EDGES, total)][::-1]
    layer, query, key = np.unravel_index(kept, weights.shape)
    return Edges(layer, query, key, flat[kept], total, float(flat[kept].sum() / flat.sum()))
