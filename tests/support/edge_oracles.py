"""Compute random forward passes and edge weights in NumPy, from the papers' equations.

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
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]
WEIGHTS = ("projection", "projection_bias", "up", "up_bias", "down", "down_bias")
WEIGHTS += ("value", "value_bias")


def layer_norm(
    values: np.ndarray, scale: Any, bias: Any, epsilon: float, rms: bool = False
) -> np.ndarray:
    mean = 0 if rms else values.mean(-1, keepdims=True)
    variance = ((values - mean) ** 2).mean(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * scale + (0 if bias is None else bias)


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
    norms: tuple[Any, ...]
    branches: tuple[Any, ...]
    activation: Any
    norm_first: bool
    gated: bool
    parallel: bool
    chosen: int


def sentence(trace: Trace, row: int | None = None) -> list[Layer]:
    """Return the layers of one sentence of a batch, without padding; `row` None: no batch."""

    def wide(array: Any) -> np.ndarray:
        return np.asarray(array, np.float64)

    pick = (lambda array: wide(array)) if row is None else (lambda array: wide(array)[row])
    attention, vectors, stream = pick(trace.attention), pick(trace.vectors), pick(trace.stream)
    n = attention.shape[-1] if trace.mask is None else int(np.asarray(trace.mask)[row].sum())
    blocks = trace.blocks
    assert blocks is not None

    def norm(each: Norm | None, layer: int) -> Any:
        if each is None:
            return None
        bias = None if each.bias is None else wide(each.bias)[layer]
        return wide(each.scale)[layer], bias, each.epsilon, each.rms

    routed = ("router", "router_bias") if blocks.chosen else ()
    return [
        Layer(
            attention[layer][:, :n, :n], vectors[layer][:, :n], stream[layer][:n],
            {name: wide(getattr(blocks, name))[layer] for name in (*WEIGHTS, *routed)},
            (norm(blocks.norm_attention, layer), norm(blocks.norm_feed_forward, layer)),
            (norm(blocks.norm_attention_out, layer), norm(blocks.norm_feed_forward_out, layer)),
            ACTIVATIONS[blocks.activation], blocks.norm_first, blocks.gated, blocks.parallel,
            blocks.chosen,
        )
        for layer in range(len(attention))
    ]  # fmt: skip


def normal_part(part: np.ndarray, whole: np.ndarray, norm: Any) -> np.ndarray:
    """Normalise a part at the whole's deviation, without the bias (Kobayashi 2021, eq. 6)."""
    scale, _, epsilon, *rms = norm
    if any(rms):
        return part / np.sqrt((whole**2).mean(-1, keepdims=True) + epsilon) * scale
    deviation = np.sqrt(whole.var(-1, keepdims=True) + epsilon)
    return (part - part.mean(-1, keepdims=True)) / deviation * scale


def _experts(weights: dict[str, np.ndarray], read: np.ndarray, chosen: int) -> np.ndarray:
    """Return the output of gpt-oss's mixture of experts, token by token."""
    found = np.zeros_like(read)
    for row, logits in enumerate(read @ weights["router"] + weights["router_bias"]):
        best = np.argsort(-logits)[:chosen]
        shares = np.exp(logits[best]) / np.exp(logits[best]).sum()
        for expert, share in zip(best, shares, strict=True):
            hidden = read[row] @ weights["up"][expert] + weights["up_bias"][expert]
            gate, linear = np.split(hidden, 2)
            gate, linear = np.minimum(gate, 7), np.clip(linear, -7, 7)
            mixed = (linear + 1) * gate / (1 + np.exp(-1.702 * gate))
            found[row] += share * (mixed @ weights["down"][expert] + weights["down_bias"][expert])
    return found


def feed_forward(layer: Layer, stream: np.ndarray) -> np.ndarray:
    """Return what the feed-forward branch adds, given the stream after attention."""
    weights, norm = layer.weights, layer.branches[1]
    read = layer.stream if layer.parallel else stream
    read = layer_norm(read, *layer.norms[1]) if layer.norm_first else read
    if layer.chosen:
        return _experts(weights, read, layer.chosen)
    hidden = read @ weights["up"] + weights["up_bias"]
    if layer.gated:
        gate, linear = np.split(hidden, 2, axis=-1)
        hidden = layer.activation(gate) * linear
    else:
        hidden = layer.activation(hidden)
    written = hidden @ weights["down"] + weights["down_bias"]
    return written if norm is None else layer_norm(written, *norm)


def attended(layer: Layer, residual: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return token j's contribution to token i, ``[n, n, D]``, and the stream after attention."""
    moved = np.einsum("hjv,hvd->hjd", layer.vectors, layer.weights["projection"])
    parts = np.einsum("hij,hjd->ijd", layer.attention, moved)
    written, norm = parts.sum(1) + layer.weights["projection_bias"], layer.branches[0]
    if norm is not None:
        parts, written = normal_part(parts, written[:, None], norm), layer_norm(written, *norm)
    own = np.eye(len(layer.stream))[..., None] * layer.stream
    return parts + residual * own, layer.stream + written


def normalised(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts after the attention block, ``[n, n, D]``, and its output."""
    parts, whole = attended(layer)
    if layer.norm_first:
        return parts, whole
    return normal_part(parts, whole[:, None], layer.norms[0]), layer_norm(whole, *layer.norms[0])


def block_output(layer: Layer) -> np.ndarray:
    """Return the block's output ``[n, D]``."""
    middle = normalised(layer)[1]
    result = middle + feed_forward(layer, middle)
    return result if layer.norm_first else layer_norm(result, *layer.norms[1])


def norm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer, residual=False)[0], axis=-1)


def norm_residual(layer: Layer) -> np.ndarray:
    return np.linalg.norm(attended(layer)[0], axis=-1)


def norm_residual_layernorm(layer: Layer) -> np.ndarray:
    return np.linalg.norm(normalised(layer)[0], axis=-1)


def globenc(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    if not layer.norm_first:
        whole = output + feed_forward(layer, output)
        parts = normal_part(parts, whole[:, None], layer.norms[1])
    return np.linalg.norm(parts, axis=-1)


def alti(layer: Layer) -> np.ndarray:
    parts, output = normalised(layer)
    without = np.abs(output[:, None] - parts).sum(-1)
    found = np.maximum(0, np.abs(output).sum(-1, keepdims=True) - without)
    return found / np.maximum(found.sum(-1, keepdims=True), 1e-30)


def value_zeroing(layer: Layer) -> np.ndarray:
    def output(vectors: np.ndarray) -> np.ndarray:
        result = block_output(dataclasses.replace(layer, vectors=vectors))
        return result / np.linalg.norm(result, axis=-1, keepdims=True)

    original, columns = output(layer.vectors), []
    for j in range(len(layer.stream)):
        without = layer.vectors.copy()
        without[:, j] = 0
        columns.append(1 - (original * output(without)).sum(-1))
    found = np.stack(columns, -1)
    return found / found.sum(-1, keepdims=True)


def _share(parts: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """DecompX's equations 5 and 6: ``[..., k, E]``."""
    if bias is None or not bias.any():
        return parts
    weights = np.abs(parts @ bias)
    return parts + (weights / weights.sum(-1, keepdims=True))[..., None] * bias


def decompx(layers: list[Layer]) -> list[np.ndarray]:
    """Return the parts after each layer, ``[n, n, D]``, by the equations of the paper."""
    stream = layers[0].stream
    found = [np.eye(len(stream))[..., None] * stream]
    for layer in layers:
        found.append(_decompx_layer(found[-1], layer))
    return found[1:]


def _decompx_norm(parts: np.ndarray, whole: np.ndarray, norm: Any) -> np.ndarray:
    return _share(normal_part(parts, whole[:, None], norm), norm[1])


def _decompx_layer(parts: np.ndarray, layer: Layer) -> np.ndarray:
    weights, first = layer.weights, layer.norm_first
    read = _decompx_norm(parts, layer.stream, layer.norms[0]) if first else parts
    # b_Att, equation 3, and what is brought, equation 4.
    bias = np.einsum("hv,hvd->d", weights["value_bias"], weights["projection"])
    moves = np.einsum("dhv,hve->hde", weights["value"], weights["projection"])
    brought = np.einsum("hij,jkd,hde->ike", layer.attention, read, moves)
    brought = _share(brought, bias + weights["projection_bias"])
    if layer.branches[0] is not None:
        brought = _decompx_norm(brought, brought.sum(1), layer.branches[0])
    before, (parts, whole) = parts, (parts + brought, attended(layer)[1])
    if not first:
        parts = _decompx_norm(parts, whole, layer.norms[0])
        whole = normalised(layer)[1]

    read, seen = (before, layer.stream) if layer.parallel else (parts, whole)
    if first:
        read = _decompx_norm(read, seen, layer.norms[1])
        seen = layer_norm(seen, *layer.norms[1])
    up, up_bias = [weights["up"]], [weights["up_bias"]]
    if layer.gated:
        up, up_bias = np.split(up[0], 2, axis=-1), np.split(up_bias[0], 2)
    zeta = seen @ up[0] + up_bias[0]
    theta = layer.activation(zeta) / zeta  # equation 10
    hidden = _share(read @ up[0], up_bias[0]) * theta[:, None]
    if layer.gated:  # half of the product for each factor, the other one known
        linear = seen @ up[1] + up_bias[1]
        of_linear = _share(read @ up[1], up_bias[1]) * layer.activation(zeta)[:, None]
        hidden = (hidden * linear[:, None] + of_linear) / 2
    written = _share(hidden @ weights["down"], weights["down_bias"])
    if layer.branches[1] is not None:
        written = _decompx_norm(written, written.sum(1), layer.branches[1])
    parts = parts + written
    if not first:
        parts = _decompx_norm(parts, whole + feed_forward(layer, whole), layer.norms[1])
    return parts


def sinks(attention: np.ndarray, sink: np.ndarray, name: str) -> np.ndarray:
    """Return ``no-...`` or ``shared-...`` of one layer's ``[H, n, n]``, sinks ``[n]`` boolean."""
    mean, rows = attention.mean(0), attention.any(0)
    others = rows & ~sink
    kept = (mean * others).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (
            mean / kept
            if name.startswith("no")
            else mean + (1 - kept) / others.sum(-1, keepdims=True)
        )
    return np.where(others, found, 0)
