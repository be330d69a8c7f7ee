"""Attentions for the tests of flow: every kind that has ever broken a flow algorithm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {}


def _kind(
    function: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    KINDS[function.__name__.strip("_")] = function
    return function


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@_kind
def _dense(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return softmax(rng.normal(size=shape) * rng.choice([0.1, 1.0, 3.0]))


@_kind
def _peaky(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return softmax(rng.normal(size=shape) * 8)


@_kind
def _sparse(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    weights = rng.random(shape) * (rng.random(shape) < 0.3)
    weights[..., 0] += weights.sum(-1) == 0
    return weights / weights.sum(-1, keepdims=True)


@_kind
def _ties(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    weights = rng.integers(0, 3, shape).astype(float)
    weights[..., -1] += weights.sum(-1) == 0
    return weights / weights.sum(-1, keepdims=True)


@_kind
def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 1 / shape[-1])


@_kind
def _identity(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.eye(shape[-1]), shape).copy()


@_kind
def _permutation(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    order = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape[:-1]), axis=-1)
    return np.eye(shape[-1])[order]


@_kind
def _pointers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros and ones: every query has one key, some keys have many queries."""
    return np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]


@_kind
def _shuffles(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few paths, all equally wide, of which many must be laid anew."""
    return np.mean([_permutation(rng, shape) for _ in range(3)], axis=0)


@_kind
def _causal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    below = np.tril(np.ones(shape[-2:], bool))
    return softmax(np.where(below, rng.normal(size=shape) * 2, -np.inf))


@_kind
def _tiny(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    weights = np.where(rng.random(shape) < 0.5, 1e-12, 0.0) + 1e-13 * rng.random(shape)
    weights[..., 0] += 1 - weights.sum(-1)
    return weights


@_kind
def _hub(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    scores = rng.normal(size=shape) * 2
    scores[..., rng.integers(shape[-1])] += 4
    return softmax(scores)


def attention_of(
    kind: str, rng: np.random.Generator, layers: int, heads: int, n: int
) -> np.ndarray:
    return KINDS[kind](rng, (layers, heads, n, n))


def pad(attention: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Add padded tokens: junk in their query rows, zeros at their keys."""
    n = attention.shape[-1]
    wide = np.zeros((*attention.shape[:-2], n + width, n + width))
    wide[..., :n, :n] = attention
    wide[..., n:, :] = 1 / (n + width)
    mask = np.zeros((*attention.shape[:-4], n + width), bool)
    mask[..., :n] = True
    return wide, mask


@st.composite
def attentions(draw: st.DrawFn, max_layers: int = 6, max_tokens: int = 8) -> np.ndarray:
    kind = draw(st.sampled_from(sorted(KINDS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, n = draw(st.integers(1, max_layers)), draw(st.integers(1, max_tokens))
    return attention_of(kind, rng, layers, draw(st.integers(1, 3)), n)
