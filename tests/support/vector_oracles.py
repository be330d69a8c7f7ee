"""Vector decompositions in loops over tokens, float64, written from the papers' equations.

All take one sentence without padding: `sentence` cuts it out of a batch's trace.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from vector_traces import ACTIVATIONS

from jaxflow.edges import Trace


@dataclasses.dataclass
class Layer:
    """One layer's arrays in float64, what attention read and what was read included."""

    attention: np.ndarray
    vectors: np.ndarray
    stream: np.ndarray
    result: np.ndarray
    weights: dict[str, np.ndarray]
    norms: tuple[tuple[np.ndarray, np.ndarray, float], ...]
    activation: Any
    norm_first: bool


def sentence(trace: Trace, row: int | None = None) -> list[Layer]:
    """Return one sentence of a batch, its padding cut off; None where there is no batch."""

    def wide(array: Any) -> np.ndarray:
        return np.asarray(array, np.float64)

    pick = (lambda array: wide(array)) if row is None else (lambda array: wide(array)[row])
    attention, vectors, stream = pick(trace.attention), pick(trace.vectors), pick(trace.stream)
    n = attention.shape[-1] if trace.mask is None else int(np.asarray(trace.mask)[row].sum())
    blocks = trace.blocks
    names = ("projection", "projection_bias", "up", "up_bias", "down", "down_bias")
    names += ("value", "value_bias") if hasattr(blocks, "value") else ()
    return [
        Layer(
            attention[layer][:, :n, :n], vectors[layer][:, :n], stream[layer][:n],
            stream[layer + 1][:n],
            {name: wide(getattr(blocks, name))[layer] for name in names},
            tuple(
                (wide(norm.scale)[layer], wide(norm.bias)[layer], norm.epsilon)
                for norm in (blocks.norm_attention, blocks.norm_feed_forward)
            ),
            ACTIVATIONS[blocks.activation], blocks.norm_first,
        )
        for layer in range(len(attention))
    ]  # fmt: skip


def normal_part(part: np.ndarray, whole: np.ndarray, norm: Any) -> np.ndarray:
    """Normalise a part at the whole's deviation, without the bias (Kobayashi 2021, eq. 6)."""
    deviation = np.sqrt(((whole - whole.mean()) ** 2).mean() + norm[2])
    return (part - part.mean()) / deviation * norm[0]


def feed_forward(layer: Layer, read: np.ndarray) -> np.ndarray:
    weights = layer.weights
    hidden = layer.activation(read @ weights["up"] + weights["up_bias"])
    return hidden @ weights["down"] + weights["down_bias"]


def attended(layer: Layer, residual: bool = True) -> np.ndarray:
    """What token j brings token i, ``[n, n, D]``, its own stream included."""
    heads, n, _ = layer.vectors.shape
    parts = np.zeros((n, n, layer.stream.shape[-1]))
    for i in range(n):
        for j in range(n):
            for h in range(heads):
                moved = layer.vectors[h, j] @ layer.weights["projection"][h]
                parts[i, j] += layer.attention[h, i, j] * moved
            if residual and i == j:
                parts[i, j] += layer.stream[i]
    return parts


def normalised(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The parts after the attention block, ``[n, n, D]``, and what the block returns."""
    parts = attended(layer)
    whole = parts.sum(1) + layer.weights["projection_bias"]
    if layer.norm_first:
        return parts, whole
    norm = layer.norms[0]
    for i, row in enumerate(parts):
        parts[i] = [normal_part(part, whole[i], norm) for part in row]
    return parts, np.array([normal_part(each, each, norm) + norm[1] for each in whole])


def norm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer, residual=False), axis=-1)


def norm_residual(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer), axis=-1)


def norm_residual_layernorm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(normalised(layer)[0], axis=-1)


def globenc(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    if layer.norm_first:
        return np.linalg.norm(parts, axis=-1)
    whole = output + feed_forward(layer, output)
    return np.array(
        [
            [np.linalg.norm(normal_part(part, whole[i], layer.norms[1])) for part in row]
            for i, row in enumerate(parts)
        ]
    )


def alti(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    n = len(output)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            found[i, j] = max(0, abs(output[i]).sum() - abs(output[i] - parts[i, j]).sum())
        found[i] /= found[i].sum() or 1
    return found


def _share(parts: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """DecompX's equations 5 and 6 for one token: ``[k, E]``."""
    if not bias.any():
        return parts
    weights = np.array([abs(part @ bias) for part in parts])
    return np.array(
        [part + w / weights.sum() * bias for part, w in zip(parts, weights, strict=True)]
    )


def decompx(layers: list[Layer]) -> list[np.ndarray]:
    """The parts after each layer, ``[n, n, D]``, by the equations of the paper."""
    n, width = layers[0].stream.shape
    parts = np.zeros((n, n, width))
    for k in range(n):
        parts[k, k] = layers[0].stream[k]
    found = []
    for layer in layers:
        parts = _decompx_layer(parts, layer)
        found.append(parts)
    return found


def _decompx_norm(parts: np.ndarray, whole: np.ndarray, norm: Any) -> np.ndarray:
    return np.array(
        [
            _share(np.array([normal_part(part, whole[i], norm) for part in row]), norm[1])
            for i, row in enumerate(parts)
        ]
    )


def _decompx_layer(parts: np.ndarray, layer: Layer) -> np.ndarray:
    weights, first = layer.weights, layer.norm_first
    heads, n = layer.attention.shape[:2]
    stream = layer.stream
    read = _decompx_norm(parts, stream, layer.norms[0]) if first else parts

    bias = weights["projection_bias"].copy()  # b_Att, equation 3
    for h in range(heads):
        bias += weights["value_bias"][h] @ weights["projection"][h]
    brought = np.zeros_like(parts)  # equation 4
    for i in range(n):
        for k in range(n):
            for j in range(n):
                for h in range(heads):
                    moved = read[j, k] @ weights["value"][:, h] @ weights["projection"][h]
                    brought[i, k] += layer.attention[h, i, j] * moved
    parts = np.array([parts[i] + _share(brought[i], bias) for i in range(n)])
    whole = attended(layer).sum(1) + weights["projection_bias"]
    if not first:
        parts = _decompx_norm(parts, whole, layer.norms[0])
        whole = normalised(layer)[1]

    read, seen = parts, whole
    if first:
        read = _decompx_norm(parts, whole, layer.norms[1])
        seen = np.array([normal_part(x, x, layer.norms[1]) + layer.norms[1][1] for x in whole])
    added = np.zeros_like(parts)
    for i in range(n):
        zeta = seen[i] @ weights["up"] + weights["up_bias"]
        theta = layer.activation(zeta) / zeta  # equation 10
        hidden = _share(read[i] @ weights["up"], weights["up_bias"]) * theta
        added[i] = _share(hidden @ weights["down"], weights["down_bias"])
    parts = parts + added
    if not first:
        parts = _decompx_norm(parts, whole + feed_forward(layer, whole), layer.norms[1])
    return parts
