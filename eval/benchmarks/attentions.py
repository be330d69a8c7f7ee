"""Made-up attention to benchmark on, of kinds that trained models have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "synthetic_attention"]

Attention = NDArray[np.float64]


def _softmax(scores: Attention) -> Attention:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _diffuse(rng: np.random.Generator, layers: int, heads: int, n: int) -> Attention:
    """Every query looks nearly everywhere, as in an untrained model."""
    return _softmax(0.5 * rng.normal(size=(layers, heads, n, n)))


def _peaky(rng: np.random.Generator, layers: int, heads: int, n: int) -> Attention:
    """Every query has a few favourite keys."""
    return _softmax(4 * rng.normal(size=(layers, heads, n, n)))


def _bert_like(rng: np.random.Generator, layers: int, heads: int, n: int) -> Attention:
    """Heads on the first and last token, on neighbours, and on content, as in BERT."""
    scores = rng.normal(size=(layers, heads, n, n))
    kind = rng.integers(0, 4, (layers, heads))
    place = np.arange(n)
    distance = place[None, :] - place[:, None]
    ends = np.where((place == 0) | (place == n - 1), 5.0, 0.0)[None, :]
    bias = np.stack(
        [
            np.broadcast_to(ends, (n, n)),
            np.where(distance == -1, 4.0, 0.0),
            np.where(distance == 1, 4.0, 0.0),
            np.zeros((n, n)),
        ]
    )
    return _softmax(scores + bias[kind])


def _causal(rng: np.random.Generator, layers: int, heads: int, n: int) -> Attention:
    """Let no query look ahead, as in a decoder."""
    scores = 1.5 * rng.normal(size=(layers, heads, n, n))
    return _softmax(np.where(np.tri(n, dtype=bool), scores, -np.inf))


def _trained_like(rng: np.random.Generator, layers: int, heads: int, n: int) -> Attention:
    """Heads whose queries all look at the same few keys, and local ones, as in small encoders."""
    columns = rng.normal(scale=2.5, size=(layers, heads, 1, n))
    place = np.arange(n)
    middle = place[:, None] + rng.integers(-2, 3, (layers, heads, 1, 1))
    near = -0.5 * np.abs(place[None, :] - middle)
    column = rng.random((layers, heads, 1, 1)) < 0.6
    return _softmax(np.where(column, columns, near) + 0.5 * rng.normal(size=(layers, heads, n, n)))


_GENERATORS: dict[str, Callable[[np.random.Generator, int, int, int], Attention]] = {
    "diffuse": _diffuse,
    "peaky": _peaky,
    "bert-like": _bert_like,
    "causal": _causal,
    "trained-like": _trained_like,
}
#: The kinds that `synthetic_attention` knows.
KINDS = tuple(_GENERATORS)


def synthetic_attention(
    kind: str, layers: int, n: int, *, heads: int = 8, sentences: int = 1, seed: int = 0
) -> Attention:
    """Draw attention ``[sentences, layers, heads, n, n]`` of one of the `KINDS`."""
    rng = np.random.default_rng([seed, KINDS.index(kind), layers, n])
    return np.stack([_GENERATORS[kind](rng, layers, heads, n) for _ in range(sentences)])
