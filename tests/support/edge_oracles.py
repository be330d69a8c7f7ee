"""Compute random forward passes and edge weights in NumPy loops, from the papers' equations.

All oracles take one layer of one sentence without padding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxflow.edges import BlockWeights, Norm, Trace

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
WEIGHTS = ("projection", "projection_bias", "up", "up_bias", "down", "down_bias")
WEIGHTS += ("value", "value_bias")


def layer_norm(values: np.ndarray, scale: Any, bias: Any, epsilon: float) -> np.ndarray:
    mean = values.mean(-1, keepdims=True)
    variance = ((values - mean) ** 2).mean(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * scale + bias


def random_trace(
    seed: int, *, norm_first: bool, activation: str = "gelu", causal: bool = False
) -> tuple[Trace, np.ndarray]:
    """One sentence's trace, and its attention blocks' outputs, ``[L, n, D]`` float64."""
    rng = np.random.default_rng(seed)
    layers, heads, n, size, hidden, epsilon = 2, 2, 4, 3, 5, 1e-5
    width = size * heads

    def draw(*shape: int, scale: float = 0.6) -> np.ndarray:
        return scale * rng.normal(size=(layers, *shape))

    attention = rng.exponential(size=(layers, heads, n, n)) ** 2 + 1e-3
    attention = np.tril(attention) if causal else attention
    attention /= attention.sum(-1, keepdims=True)
    shapes = ((heads, size, width), (width,), (width, hidden), (hidden,), (hidden, width))
    shapes += ((width,), (width, heads, size), (heads, size))
    weights = {name: draw(*shape) for name, shape in zip(WEIGHTS, shapes, strict=True)}
    scales, biases = 1 + draw(2, width, scale=0.3), draw(2, width)

    streams, vectors, outputs = [rng.normal(size=(n, width))], [], []
    for layer in range(layers):
        w = {name: array[layer] for name, array in weights.items()}
        norms = [(scales[layer, which], biases[layer, which], epsilon) for which in (0, 1)]
        stream = streams[-1]
        read = layer_norm(stream, *norms[0]) if norm_first else stream
        values = np.einsum("jd,dhv->hjv", read, w["value"]) + w["value_bias"][:, None]
        mixed = np.einsum("hij,hjv,hve->ie", attention[layer], values, w["projection"])
        stream = stream + mixed + w["projection_bias"]
        stream = stream if norm_first else layer_norm(stream, *norms[0])
        outputs.append(stream)
        read = layer_norm(stream, *norms[1]) if norm_first else stream
        stream = stream + ACTIVATIONS[activation](read @ w["up"] + w["up_bias"]) @ w["down"]
        stream = stream + w["down_bias"]
        streams.append(stream if norm_first else layer_norm(stream, *norms[1]))
        vectors.append(values)

    def single(array: Any) -> np.ndarray:
        return np.asarray(array, np.float32)

    blocks = BlockWeights(
        **{name: single(array) for name, array in weights.items()},
        norm_attention=Norm(single(scales[:, 0]), single(biases[:, 0]), epsilon),
        norm_feed_forward=Norm(single(scales[:, 1]), single(biases[:, 1]), epsilon),
        activation=activation,
        norm_first=norm_first,
    )
    trace = Trace(
        attention=single(attention), vectors=single(vectors), stream=single(streams), blocks=blocks
    )
    return trace, np.array(outputs)


@dataclasses.dataclass
class Layer:
    """One layer's arrays in float64, its input and output included."""

    attention: np.ndarray
    vectors: np.ndarray
    stream: np.ndarray
    weights: dict[str, np.ndarray]
    norms: tuple[tuple[np.ndarray, np.ndarray, float], ...]
    activation: Any
    norm_first: bool


def sentence(trace: Trace, row: int | None = None) -> list[Layer]:
    """Return the layers of one sentence of a batch, without padding; `row` None: no batch."""

    def wide(array: Any) -> np.ndarray:
        return np.asarray(array, np.float64)

    pick = (lambda array: wide(array)) if row is None else (lambda array: wide(array)[row])
    attention, vectors, stream = pick(trace.attention), pick(trace.vectors), pick(trace.stream)
    n = attention.shape[-1] if trace.mask is None else int(np.asarray(trace.mask)[row].sum())
    blocks = trace.blocks
    assert blocks is not None
    return [
        Layer(
            attention[layer][:, :n, :n], vectors[layer][:, :n], stream[layer][:n],
            {name: wide(getattr(blocks, name))[layer] for name in WEIGHTS},
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
    """Return token j's contribution to token i, ``[n, n, D]``."""
    heads, n, _ = layer.vectors.shape
    parts = np.zeros((n, n, layer.stream.shape[-1]))
    for i, j, h in np.ndindex(n, n, heads):
        moved = layer.vectors[h, j] @ layer.weights["projection"][h]
        parts[i, j] += layer.attention[h, i, j] * moved
    for i in range(n):
        parts[i, i] += residual * layer.stream[i]
    return parts


def normalised(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts after the attention block, ``[n, n, D]``, and its output."""
    parts = attended(layer)
    whole = parts.sum(1) + layer.weights["projection_bias"]
    if layer.norm_first:
        return parts, whole
    norm = layer.norms[0]
    for i, row in enumerate(parts):
        parts[i] = [normal_part(part, whole[i], norm) for part in row]
    return parts, layer_norm(whole, *norm)


def norm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer, residual=False), axis=-1)


def norm_residual(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer), axis=-1)


def norm_residual_layernorm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(normalised(layer)[0], axis=-1)


def globenc(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    if not layer.norm_first:
        whole = output + feed_forward(layer, output)
        for i, j in np.ndindex(parts.shape[:2]):
            parts[i, j] = normal_part(parts[i, j], whole[i], layer.norms[1])
    return np.linalg.norm(parts, axis=-1)


def alti(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    found = np.zeros(parts.shape[:2])
    for i, j in np.ndindex(found.shape):
        found[i, j] = max(0, abs(output[i]).sum() - abs(output[i] - parts[i, j]).sum())
    return found / np.maximum(found.sum(-1, keepdims=True), 1e-30)


def value_zeroing(layer: Layer) -> np.ndarray:
    def output(vectors: np.ndarray) -> np.ndarray:
        middle = normalised(dataclasses.replace(layer, vectors=vectors))[1]
        read = layer_norm(middle, *layer.norms[1]) if layer.norm_first else middle
        result = middle + feed_forward(layer, read)
        return result if layer.norm_first else layer_norm(result, *layer.norms[1])

    n = len(layer.stream)
    found, original = np.zeros((n, n)), output(layer.vectors)
    for j in range(n):
        without = layer.vectors.copy()
        without[:, j] = 0
        for i, altered in enumerate(output(without)):
            length = np.linalg.norm(original[i]) * np.linalg.norm(altered)
            found[i, j] = 1 - original[i] @ altered / length
    return found / found.sum(-1, keepdims=True)


def _share(parts: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """DecompX's equations 5 and 6 for one token: ``[k, E]``."""
    if not bias.any():
        return parts
    weights = np.abs(parts @ bias)
    return parts + (weights / weights.sum())[:, None] * bias


def decompx(layers: list[Layer]) -> list[np.ndarray]:
    """Return the parts after each layer, ``[n, n, D]``, by the equations of the paper."""
    parts = np.zeros((len(layers[0].stream), *layers[0].stream.shape))
    for k, token in enumerate(layers[0].stream):
        parts[k, k] = token
    found = []
    for layer in layers:
        parts = _decompx_layer(parts, layer)
        found.append(parts)
    return found


def _decompx_norm(parts: np.ndarray, whole: np.ndarray, norm: Any) -> np.ndarray:
    rows = zip(parts, whole, strict=True)
    return np.array(
        [
            _share(np.array([normal_part(part, vector, norm) for part in row]), norm[1])
            for row, vector in rows
        ]
    )


def _decompx_layer(parts: np.ndarray, layer: Layer) -> np.ndarray:
    weights, first = layer.weights, layer.norm_first
    heads, n = layer.attention.shape[:2]
    read = _decompx_norm(parts, layer.stream, layer.norms[0]) if first else parts

    bias = weights["projection_bias"].copy()  # b_Att, equation 3
    for h in range(heads):
        bias += weights["value_bias"][h] @ weights["projection"][h]
    brought = np.zeros_like(parts)  # equation 4
    for i, k, j, h in np.ndindex(n, n, n, heads):
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
        seen = layer_norm(whole, *layer.norms[1])
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


def sinks(attention: np.ndarray, sink: np.ndarray, name: str) -> np.ndarray:
    """Return ``no-...`` or ``shared-...`` of one layer's ``[H, n, n]``, sinks ``[n]`` boolean."""
    mean, n = attention.mean(0), len(sink)
    found = np.zeros((n, n))
    for i in range(n):
        others = [j for j in range(n) if attention[:, i, j].any() and not sink[j]]
        kept = sum(mean[i, j] for j in others)
        for j in others:
            if name.startswith("no"):
                found[i, j] = mean[i, j] / kept
            else:
                found[i, j] = mean[i, j] + (1 - kept) / len(others)
    return found
