"""Forward passes of random blocks in NumPy, float64, as traces: any size, nothing trained."""

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


def layer_norm(values: np.ndarray, scale: Any, bias: Any, epsilon: float) -> np.ndarray:
    mean = values.mean(-1, keepdims=True)
    variance = ((values - mean) ** 2).mean(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * scale + bias


def random_trace(
    seed: int,
    *,
    norm_first: bool,
    layers: int = 2,
    heads: int = 2,
    n: int = 4,
    activation: str = "gelu",
    causal: bool = False,
) -> tuple[Trace, np.ndarray]:
    """One sentence's trace, and what its attention blocks return, ``[L, n, D]`` float64."""
    rng = np.random.default_rng(seed)
    size, hidden, epsilon = 3, 5, 1e-5
    width = size * heads

    def draw(*shape: int, scale: float = 0.6) -> np.ndarray:
        return scale * rng.normal(size=(layers, *shape))

    attention = rng.exponential(size=(layers, heads, n, n)) ** 2 + 1e-3
    attention = np.tril(attention) if causal else attention
    attention /= attention.sum(-1, keepdims=True)
    value, value_bias = draw(width, heads, size), draw(heads, size)
    projection, projection_bias = draw(heads, size, width), draw(width)
    scales, biases = 1 + draw(2, width, scale=0.3), draw(2, width)
    up, up_bias, down, down_bias = (
        draw(width, hidden), draw(hidden), draw(hidden, width), draw(width)
    )  # fmt: skip

    streams, vectors, outputs = [rng.normal(size=(n, width))], [], []
    for layer in range(layers):
        norms = [(scales[layer, which], biases[layer, which], epsilon) for which in (0, 1)]
        stream = streams[-1]
        read = layer_norm(stream, *norms[0]) if norm_first else stream
        values = np.einsum("jd,dhv->hjv", read, value[layer]) + value_bias[layer][:, None]
        mixed = np.einsum("hij,hjv,hve->ie", attention[layer], values, projection[layer])
        stream = stream + mixed + projection_bias[layer]
        stream = stream if norm_first else layer_norm(stream, *norms[0])
        outputs.append(stream)
        read = layer_norm(stream, *norms[1]) if norm_first else stream
        expanded = ACTIVATIONS[activation](read @ up[layer] + up_bias[layer])
        stream = stream + expanded @ down[layer] + down_bias[layer]
        streams.append(stream if norm_first else layer_norm(stream, *norms[1]))
        vectors.append(values)

    def single(array: Any) -> np.ndarray:
        return np.asarray(array, np.float32)

    blocks = BlockWeights(
        single(projection), single(projection_bias),
        Norm(single(scales[:, 0]), single(biases[:, 0]), epsilon),
        Norm(single(scales[:, 1]), single(biases[:, 1]), epsilon),
        single(up), single(up_bias), single(down), single(down_bias),
        activation=activation, norm_first=norm_first,
        value=single(value), value_bias=single(value_bias),
    )  # fmt: skip
    trace = Trace(
        attention=single(attention), vectors=single(vectors), stream=single(streams), blocks=blocks
    )
    return trace, np.array(outputs)


def permuted(trace: Trace, tokens: Any) -> Trace:
    """The same pass with its tokens in another order."""
    attention, vectors, stream = (
        np.asarray(each) for each in (trace.attention, trace.vectors, trace.stream)
    )
    return dataclasses.replace(
        trace,
        attention=attention[..., tokens, :][..., tokens],
        vectors=vectors[..., tokens, :],
        stream=stream[..., tokens, :],
    )


def heads_permuted(trace: Trace, heads: Any) -> Trace:
    """The same pass with its heads in another order, their parameters with them."""
    blocks = trace.blocks
    assert blocks is not None
    return dataclasses.replace(
        trace,
        attention=np.asarray(trace.attention)[:, heads],
        vectors=np.asarray(trace.vectors)[:, heads],
        blocks=dataclasses.replace(
            blocks,
            projection=np.asarray(blocks.projection)[:, heads],
            value=np.asarray(blocks.value)[:, :, heads],
            value_bias=np.asarray(blocks.value_bias)[:, heads],
        ),
    )
