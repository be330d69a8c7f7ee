"""Compute the definitions in float64, one sentence at a time.

Nothing here is shared with the code under test, and nothing is meant to be fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def raw_attention(attention: np.ndarray, heads: str | int = "mean") -> np.ndarray:
    values = np.asarray(attention, np.float64)
    return getattr(values, heads)(1) if isinstance(heads, str) else values[:, heads]


def edge_weights(
    attention: np.ndarray, residual: float = 0.5, heads: str | int = "mean"
) -> np.ndarray:
    edges = raw_attention(attention, heads)
    edges = (1 - residual) * edges + residual * np.eye(edges.shape[-1])
    total = edges.sum(-1, keepdims=True)
    return edges / np.where(total > 0, total, 1) if heads in ("max", "min") else edges


def rollout(
    attention: np.ndarray, residual: float = 0.5, heads: str | int = "mean", start_layer: int = 0
) -> np.ndarray:
    edges = edge_weights(attention, residual, heads)
    result = [np.eye(edges.shape[-1])]
    for layer, weights in enumerate(edges):
        result.append(weights @ result[-1] if layer >= start_layer else result[-1])
    return np.array(result[1:])


def head_rollout(attention: np.ndarray, residual: float = 0.5) -> np.ndarray:
    below = [np.eye(attention.shape[-1]), *rollout(attention, residual)]
    heads = range(attention.shape[1])
    edges = [edge_weights(attention[:, [head]], residual) for head in heads]
    return np.array(
        [[edges[head][at] @ below[at] for head in heads] for at in range(len(attention))]
    )


def finite_differences(
    function: Callable[[np.ndarray], float], values: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """Return the gradient of a float64 function by central differences."""
    gradient = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        above, below = values.copy(), values.copy()
        above[place] += step
        below[place] -= step
        gradient[place] = (float(function(above)) - float(function(below))) / (2 * step)
    return gradient


def layer_norm(values: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Normalise one vector, the variance being the biased one."""
    centred = values - values.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-5) * weights["scale"] + weights["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """GPT-2's GELU, by its tanh formula."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def affine(values: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    return values @ weights["kernel"] + weights["bias"]


def encoder(
    params: Any, tokens: np.ndarray, real: np.ndarray, *, layers: int, heads: int, causal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run one sentence ``[n]`` through the whole model: logits, attention, hidden states."""
    n = len(tokens)
    stream = [params["word"]["embedding"][tokens[i]] + params["position"][i] for i in range(n)]
    hidden, attention = [np.array(stream)], []
    for layer in range(layers):
        block = params[f"blocks_{layer}"]
        fused = [affine(layer_norm(row, block["norm_attention"]), block["qkv"]) for row in stream]
        width = len(stream[0])
        size = width // heads
        weights = np.zeros((heads, n, n))
        mixed = np.zeros((n, width))
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(n):
                keys = [j for j in range(n) if real[j] and (j <= i or not causal)]
                query = fused[i][:width][part]
                scores = [query @ fused[j][width : 2 * width][part] / math.sqrt(size) for j in keys]
                total = sum(math.exp(score) for score in scores)
                for j, score in zip(keys, scores, strict=True):
                    weights[head, i, j] = math.exp(score) / total
                    mixed[i, part] += weights[head, i, j] * fused[j][2 * width :][part]
        stream = [stream[i] + affine(mixed[i], block["attention_out"]) for i in range(n)]
        for i in range(n):
            expanded = gelu(affine(layer_norm(stream[i], block["norm_feed_forward"]), block["up"]))
            stream[i] = stream[i] + affine(expanded, block["down"])
        hidden.append(np.array(stream))
        attention.append(weights)
    read = max(i for i in range(n) if real[i]) if causal else 0
    logits = affine(layer_norm(stream[read], params["norm"]), params["readout"])
    return logits, np.array(attention), np.array(hidden)


def igraph_flow(edges, layer, source, sink):
    """Return the maximum flow on edge weights ``[L, n, n]`` by igraph."""
    igraph = pytest.importorskip("igraph", reason="igraph, the test oracle, is not installed")
    n, edges = edges.shape[-1], edges[: layer + 1]
    level, query, key = np.nonzero(edges)
    arcs = np.stack([(level + 1) * n + query, level * n + key], 1)
    graph = igraph.Graph(n=(layer + 2) * n, edges=arcs, directed=True)
    capacity = edges[level, query, key].tolist()
    return graph.maxflow_value((layer + 1) * n + source, sink, capacity=capacity)
