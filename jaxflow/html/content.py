"""What a page shows, as arrays: scores by layer and head, edge weights, cuts. No drawing here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.cut import FlowCut, cut_edges
from jaxflow._flow.table import flow, graph_edges
from jaxflow._rollout import rollout
from jaxflow.attention import check_attention, check_residual, resolve_index
from jaxflow.errors import InputError

__all__ = ["Content", "prepare"]

# Cuts to the tokens of the input are always worked out; those to tokens in between only while
# there are at most so many, because each takes milliseconds where layers and tokens are many.
MOST_INNER = 600


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """One sentence of n tokens.

    Attributes
    ----------
    tokens
        The n tokens, untouched.
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
        Method -> float64 ``[n]``: scores that know neither layers nor heads.
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


def prepare(
    attention: Any,
    tokens: Sequence[str] | None = None,
    *,
    scores: Mapping[str, Any] | None = None,
    residual: float = 0.5,
    mask: Any = None,
    source: int = 0,
) -> Content:
    """Work out what a page shows.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``, the attention of one sentence.
    tokens
        The n tokens; without them they are called by their index.
    scores
        Further scores by name, each ``[n]``.
    residual
        Share of the residual connection, for rollout and flow.
    mask
        bool ``[n]``, True at real tokens: the others are left out.
    source
        Index of the token explained, counted before the mask.

    Raises
    ------
    InputError
        If an argument is not usable.
    """
    checked, mask = check_attention(attention, mask)
    weights = np.asarray(checked)
    if weights.ndim != 4:
        raise InputError(
            "attention must be that of one sentence, [layers, heads, tokens, tokens], got shape "
            f"{weights.shape}"
        )
    residual = float(check_residual(residual))
    n = weights.shape[-1]
    source = resolve_index("source", source, n)
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
    cuts = _cuts(edges, source)
    return Content(names, weights, source, residual, layered, extra, edges, cuts)


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
    # Every head alone, and their mean first, as a batch of sentences with one head each.
    fused = np.concatenate([weights.mean(1, keepdims=True), weights], 1)
    batch = np.moveaxis(fused, 1, 0)[:, :, None]
    rows = {
        "raw attention": fused[:, :, source],
        "rollout": np.moveaxis(np.asarray(rollout(batch, residual=residual)), 0, 1)[:, :, source],
        "flow": np.moveaxis(flow(batch, residual=residual, sources=source), 0, 1)[:, :, 0],
    }
    return {name: np.asarray(values, np.float64) for name, values in rows.items()}


def _cuts(edges: NDArray[np.float64], source: int) -> dict[tuple[int, int], FlowCut]:
    depth, n = edges.shape[:2]
    levels = range(depth if (depth - 1) * n <= MOST_INNER else 1)
    cuts = {}
    for level in levels:
        for token in range(n):
            # What lies below the sink carries nothing to it.
            cut = cut_edges(edges[level:], depth - 1 - level, source, token)
            lifted = tuple((layer + level, query, key) for layer, query, key in cut.edges)
            cuts[level, token] = FlowCut(cut.value, lifted)
    return cuts
