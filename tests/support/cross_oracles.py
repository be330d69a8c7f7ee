"""Encoder and decoder: random attention, and the graph through both as its definition has it.

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


def joint_flows(
    trace: CrossTrace, residual: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> np.ndarray:
    """Return the maximum flows ``[Ld, n, m + n]`` of one sentence pair, by push-relabel."""
    columns = inputs(trace)
    blocks, n = np.shape(trace.decoder)[-4], np.shape(trace.decoder)[-1]
    found = np.zeros((blocks, n, len(columns)))
    for block in range(blocks):
        graph = joint_graph(trace, block, residual)
        for row, column in np.ndindex(n, len(columns)):
            start, end = ("decoder", block + 1, row), columns[column]
            if start in graph and end is not None:
                found[block, row, column] = networkx.maximum_flow_value(
                    graph, start, end, flow_func=preflow_push
                )
    return found


def joint_rollout(
    trace: CrossTrace, residual: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> np.ndarray:
    """Return the sums over all paths of the products of their edges, ``[Ld, n, m + n]``."""
    columns = inputs(trace)
    blocks, n = np.shape(trace.decoder)[-4], np.shape(trace.decoder)[-1]
    found = np.zeros((blocks, n, len(columns)))
    for block in range(blocks):
        graph = joint_graph(trace, block, residual)
        order = list(networkx.topological_sort(graph))
        for column, end in enumerate(columns):
            if end is None:
                continue
            reached = {node: float(node == end) for node in graph}
            for node in reversed(order):
                for below, edge in graph[node].items():
                    reached[node] += edge["capacity"] * reached[below]
            for row in range(n):
                found[block, row, column] = reached.get(("decoder", block + 1, row), 0)
    return found


def relevance(trace: CrossTrace) -> np.ndarray:
    """Return the rules of Chefer, Gur and Wolf (ICCV 2021) as loops, ``[Ld, n, m + n]``."""
    m, n = np.shape(trace.cross)[-1], np.shape(trace.cross)[-2]
    sources = range(m) if trace.source_mask is None else real(trace.source_mask)
    targets = range(n) if trace.target_mask is None else real(trace.target_mask)

    def averaged(attention: Any, gradient: Any, layer: int, i: int, j: int) -> float:  # equation 5
        heads = np.shape(attention)[-3]
        moved = (attention[layer, h, i, j] * gradient[layer, h, i, j] for h in range(heads))
        return sum(max(float(each), 0.0) for each in moved) / heads

    def normalised(matrix: np.ndarray, tokens: Any) -> np.ndarray:  # equations 8 and 9
        result = np.zeros_like(matrix)
        for i in tokens:
            without = [matrix[i, j] - (i == j) for j in range(len(matrix))]
            total = sum(without)
            for j in tokens:
                result[i, j] = (without[j] / total if total > 0 else 0) + (i == j)
        return result

    rqq = np.diag([float(j in sources) for j in range(m)])
    rss, rsq = np.diag([float(i in targets) for i in range(n)]), np.zeros((n, m))
    for layer in range(np.shape(trace.encoder)[-4]):
        before = rqq.copy()
        for i in sources:
            for k in sources:
                weight = averaged(trace.encoder, trace.encoder_gradient, layer, i, k)
                for j in sources:
                    rqq[i, j] += weight * before[k, j]  # equation 6
    layers = []
    for layer in range(np.shape(trace.decoder)[-4]):
        before, below = rss.copy(), rsq.copy()
        for i in targets:
            for k in targets:
                weight = averaged(trace.decoder, trace.decoder_gradient, layer, i, k)
                for j in targets:
                    rss[i, j] += weight * before[k, j]  # equation 6
                for j in sources:
                    rsq[i, j] += weight * below[k, j]  # equation 7
        itself, source = normalised(rss, targets), normalised(rqq, sources)
        for k in targets:
            for a in sources:
                weight = averaged(trace.cross, trace.cross_gradient, layer, k, a)
                for i in targets:
                    for j in sources:
                        rsq[i, j] += itself[k, i] * weight * source[a, j]  # equation 10
        layers.append(np.concatenate([rsq, rss], -1))
    return np.array(layers)
