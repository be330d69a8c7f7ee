"""Generate encoder-decoder attention, and compute the graph through both by definition.

Loops over float64, one sentence pair at a time; nothing is shared with the code under test.
"""

from __future__ import annotations

from typing import Any

import networkx
import numpy as np
from attentions import softmax
from networkx.algorithms.flow import preflow_push

from jaxflow.edges import CrossTrace

#: Encoder layers, decoder layers, heads of the three kinds, source tokens, target tokens.
SIZES = (
    (1, 1, (2, 2, 2), 1, 1),
    (1, 3, (2, 1, 3), 4, 1),
    (3, 1, (1, 2, 2), 1, 4),
    (2, 3, (2, 3, 2), 5, 3),
    (4, 2, (2, 2, 2), 3, 6),
)


def random_trace(
    seed: int,
    size: tuple[int, int, tuple[int, int, int], int, int],
    *,
    causal: bool = False,
    padded: tuple[int, int] = (0, 0),
    sharp: float = 2.0,
    batch: tuple[int, ...] = (),
) -> CrossTrace:
    """Return attention and gradients of the three kinds; `padded` source, target tokens at the end.

    Rows of padded queries hold NaN: nobody may read them.
    """
    rng = np.random.default_rng(seed)
    upper, lower, heads, m, n = size
    there = np.arange(m) < m - padded[0], np.arange(n) < n - padded[1]

    def attention(layers: int, count: int, query: np.ndarray, key: np.ndarray, sight: Any) -> Any:
        scores = sharp * rng.normal(size=(*batch, layers, count, len(query), len(key)))
        weights = softmax(np.where(key & sight, scores, -1e30))
        weights[..., ~query, :] = np.nan
        return weights

    past = np.tri(n, dtype=bool) if causal else np.ones((n, n), bool)
    parts = (
        attention(upper, heads[0], there[0], there[0], True),
        attention(lower, heads[1], there[1], there[1], past),
        attention(lower, heads[2], there[1], there[0], True),
    )
    masks = [
        np.broadcast_to(real, (*batch, len(real))).copy() if padding else None
        for real, padding in zip(there, padded, strict=True)
    ]
    return CrossTrace(*parts, *masks, *(rng.normal(size=part.shape) for part in parts))


def joint_graph(
    trace: CrossTrace, block: int, residual: tuple[float, float, float]
) -> networkx.DiGraph:
    """Build the graph below a decoder block (0-based) of one sentence pair, heads averaged."""
    encoder, decoder, cross = (
        np.asarray(part, np.float64).mean(-3)
        for part in (trace.encoder, trace.decoder, trace.cross)
    )
    graph = networkx.DiGraph()
    sources = range(encoder.shape[-1]) if trace.source_mask is None else real(trace.source_mask)
    targets = range(decoder.shape[-1]) if trace.target_mask is None else real(trace.target_mask)
    top = len(encoder)
    graph.add_nodes_from(("encoder", level, j) for level in range(top + 1) for j in sources)
    graph.add_nodes_from(("decoder", level, k) for level in range(block + 2) for k in targets)

    def join(upper: tuple[str, int, int], lower: tuple[str, int, int], capacity: float) -> None:
        if capacity > 0:
            graph.add_edge(upper, lower, capacity=float(capacity))

    for level in range(top):
        for i in sources:
            for j in sources:
                weight = (1 - residual[0]) * encoder[level, i, j] + residual[0] * (i == j)
                join(("encoder", level + 1, i), ("encoder", level, j), weight)
    for level in range(block + 1):
        for i in targets:
            for j in sources:
                weight = (1 - residual[2]) * cross[level, i, j]
                join(("decoder", level + 1, i), ("encoder", top, j), weight)
            join(("decoder", level + 1, i), ("between", level, i), residual[2])
            for k in targets:
                weight = (1 - residual[1]) * decoder[level, i, k] + residual[1] * (i == k)
                join(("between", level, i), ("decoder", level, k), weight)
    return graph


def real(mask: Any) -> list[int]:
    return [int(token) for token in np.flatnonzero(mask)]


def inputs(trace: CrossTrace) -> list[tuple[str, int, int] | None]:
    """Return the nodes of the m + n columns, None where one is padding."""
    nodes: list[tuple[str, int, int] | None] = []
    for name, part, mask in (
        ("encoder", trace.encoder, trace.source_mask),
        ("decoder", trace.decoder, trace.target_mask),
    ):
        for token in range(np.shape(part)[-1]):
            nodes.append((name, 0, token) if mask is None or mask[token] else None)
    return nodes


def joint(
    trace: CrossTrace, residual: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> tuple[np.ndarray, np.ndarray]:
    """Return maximum flows, and sums over all paths, of one pair: each ``[Ld, n, m + n]``."""
    columns = inputs(trace)
    blocks, n = np.shape(trace.decoder)[-4], np.shape(trace.decoder)[-1]
    flows, sums = np.zeros((2, blocks, n, len(columns)))
    for block in range(blocks):
        graph = joint_graph(trace, block, residual)
        upwards = list(networkx.topological_sort(graph))[::-1]
        for column, end in enumerate(columns):
            if end is None:
                continue
            reached = {node: float(node == end) for node in graph}
            for node in upwards:
                for below, edge in graph[node].items():
                    reached[node] += edge["capacity"] * reached[below]
            for row in range(n):
                start = ("decoder", block + 1, row)
                if start in graph:
                    sums[block, row, column] = reached[start]
                    flows[block, row, column] = networkx.maximum_flow_value(
                        graph, start, end, flow_func=preflow_push
                    )
    return flows, sums


def relevance(trace: CrossTrace) -> np.ndarray:
    """Return the rules of Chefer, Gur and Wolf (ICCV 2021) by matrices, ``[Ld, n, m + n]``."""
    m, n = np.shape(trace.cross)[-1], np.shape(trace.cross)[-2]
    sources = list(range(m)) if trace.source_mask is None else real(trace.source_mask)
    targets = list(range(n)) if trace.target_mask is None else real(trace.target_mask)

    def averaged(name: str, layer: int, queries: list[int], keys: list[int]) -> np.ndarray:
        attention, gradient = (  # equation 5
            np.asarray(getattr(trace, field))[layer][:, queries][..., keys]
            for field in (name, f"{name}_gradient")
        )
        return np.maximum(attention * gradient, 0).mean(0)

    def normalised(matrix: np.ndarray) -> np.ndarray:  # equations 8 and 9
        without = matrix - np.eye(len(matrix))
        total = without.sum(1, keepdims=True)
        shares = np.divide(without, total, out=np.zeros_like(without), where=total > 0)
        return shares + np.eye(len(matrix))

    rqq, rss = np.eye(len(sources)), np.eye(len(targets))
    rsq = np.zeros((len(targets), len(sources)))
    for layer in range(np.shape(trace.encoder)[-4]):
        rqq = rqq + averaged("encoder", layer, sources, sources) @ rqq  # equation 6
    found = np.zeros((np.shape(trace.decoder)[-4], n, m + n))
    for layer, result in enumerate(found):
        own = averaged("decoder", layer, targets, targets)
        rss, rsq = rss + own @ rss, rsq + own @ rsq  # equations 6 and 7
        down = averaged("cross", layer, targets, sources)
        rsq = rsq + normalised(rss).T @ down @ normalised(rqq)  # equation 10
        result[np.ix_(targets, sources)] = rsq
        result[np.ix_(targets, [m + target for target in targets])] = rss
    return found
