"""Generate random attentions, as Hypothesis strategies and as functions.

Shapes come from a short list, because every new shape is compiled anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

KINDS = ("dense", "peaky", "causal", "sparse", "uniform")
#: Every kind that has ever broken a flow algorithm.
FLOW_KINDS = (
    *KINDS,
    *("ties", "identity", "permutation", "pointers", "shuffles", "tiny", "hub"),
)
DTYPES = (np.float32, np.float64)
# Layers, heads, tokens.
SHAPES = ((1, 2, 1), (1, 3, 4), (3, 2, 5))


class Foreign:
    """An array of another framework: all it offers is ``__array__``, as a torch CPU tensor does."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _permutation(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    order = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape[:-1]), axis=-1)
    return np.eye(shape[-1])[order]


def attention_of(kind: str, seed: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float64 attention ``[..., L, H, n, n]`` of one of the `FLOW_KINDS`."""
    rng, n = np.random.default_rng(seed), shape[-1]
    if kind == "uniform":
        return np.full(shape, 1 / n)
    if kind == "identity":
        return np.broadcast_to(np.eye(n), shape).copy()
    if kind == "permutation":
        return _permutation(rng, shape)
    if kind == "pointers":  # every query has one key, some keys have many queries
        return np.eye(n)[rng.integers(n, size=shape[:-1])]
    if kind == "shuffles":  # few paths, all equally wide, many of which must be rerouted
        return np.mean([_permutation(rng, shape) for _ in range(3)], axis=0)
    if kind == "tiny":
        weights = np.where(rng.random(shape) < 0.5, 1e-12, 0.0) + 1e-13 * rng.random(shape)
        weights[..., 0] += 1 - weights.sum(-1)
        return weights
    if kind in ("sparse", "ties"):
        weights = rng.random(shape) * (rng.random(shape) < 0.4)
        if kind == "ties":
            weights = rng.integers(0, 3, shape).astype(float)
        weights[..., 0] += weights.sum(-1) == 0
        return weights / weights.sum(-1, keepdims=True)
    scores = rng.normal(size=shape) * {"dense": 1, "causal": 2, "peaky": 10, "hub": 2}[kind]
    if kind == "hub":
        scores[..., rng.integers(n)] += 4
    if kind == "causal":
        scores = np.where(np.tril(np.ones(shape[-2:], bool)), scores, -np.inf)
    return softmax(scores)


def pad(
    attention: np.ndarray, places: np.ndarray, width: int, junk: float
) -> tuple[np.ndarray, np.ndarray]:
    """Put the tokens at `places` of a wider sentence; padded queries hold `junk`, keys 0."""
    wide = np.zeros((*attention.shape[:-2], width, width), attention.dtype)
    mask = np.zeros((*attention.shape[:-4], width), bool)
    mask[..., places] = True
    wide[..., ~np.isin(np.arange(width), places), :] = junk
    wide[..., places[:, None], places] = attention
    return wide, mask


def pad_end(attention: np.ndarray, extra: int) -> tuple[np.ndarray, np.ndarray]:
    """Put `extra` padded tokens after the real ones."""
    n = attention.shape[-1]
    return pad(attention, np.arange(n), n + extra, 1 / (n + extra))


def unpad(result: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Take the real tokens back out of ``[..., n, n]``, after checking that the rest is 0."""
    result = np.array(result)
    real = result[..., places[:, None], places].copy()
    result[..., places[:, None], places] = 0
    np.testing.assert_array_equal(result, 0)
    return real


@st.composite
def attentions(
    draw: st.DrawFn, dtypes: tuple[type, ...] = DTYPES, batch: tuple[int, ...] = ()
) -> np.ndarray:
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32 - 1))
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(dtypes))
    layers, heads, n = shape
    return attention_of(kind, seed, (*batch, layers, heads, n, n)).astype(dtype)


@st.composite
def flow_attentions(draw: st.DrawFn) -> np.ndarray:
    """Attentions of any shape: flow compiles for none."""
    kind, seed = draw(st.sampled_from(FLOW_KINDS)), draw(st.integers(0, 2**32 - 1))
    layers, heads, n = (draw(st.integers(1, most)) for most in (6, 3, 8))
    return attention_of(kind, seed, (layers, heads, n, n))


@st.composite
def paddings(draw: st.DrawFn, n: int, extra: int = 2) -> np.ndarray:
    """Places of `n` tokens in a sentence of ``n + extra``: at the front, at the end or anywhere."""
    places = draw(st.permutations(range(n + extra)).map(lambda order: sorted(order[:n])))
    return np.array(places)


heads_options = st.sampled_from(["mean", "max", "min", 0, -1])
residuals = st.sampled_from([0.0, 0.25, 0.5, 1.0])
junk_values = st.sampled_from([0.0, 0.3, -1.0, float("nan")])
