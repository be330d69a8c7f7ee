"""Attention to benchmark on: generators of typical kinds, and that of a trained run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError

__all__ = ["KINDS", "synthetic_attention", "trained_attention"]

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


_GENERATORS: dict[str, Callable[[np.random.Generator, int, int, int], Attention]] = {
    "diffuse": _diffuse,
    "peaky": _peaky,
    "bert-like": _bert_like,
    "causal": _causal,
}
#: The kinds that `synthetic_attention` knows.
KINDS = tuple(_GENERATORS)


def synthetic_attention(
    kind: str, layers: int, n: int, *, heads: int = 8, sentences: int = 1, seed: int = 0
) -> Attention:
    """Draw attention ``[sentences, layers, heads, n, n]`` of one of the `KINDS`."""
    rng = np.random.default_rng([seed, KINDS.index(kind), layers, n])
    return np.stack([_GENERATORS[kind](rng, layers, heads, n) for _ in range(sentences)])


def trained_attention(run: Path, n: int, *, sentences: int = 1) -> Attention:
    """Return a trained run's attention on test sentences of its corpus of n tokens.

    Parameters
    ----------
    run
        The run's folder.
    n
        Tokens a sentence, ``[CLS]`` included; where too few sentences have as many, the beginnings
        of longer ones are taken.
    sentences
        How many; fewer where the corpus has fewer.

    Returns
    -------
    numpy.ndarray
        ``[sentences, L, H, n, n]`` float64, rows summing to 1 in that precision.

    Raises
    ------
    InputError
        If there is no run, its corpus is gone, or no sentence is long enough.
    """
    from jaxflow.models import load
    from jaxflow.train.data import load_splits
    from jaxflow.train.journal import read_config

    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    model = load(run)
    test = load_splits(config, model.tokenizer)["test"]
    rows = np.flatnonzero(test.lengths >= n)
    rows = rows[np.argsort(test.lengths[rows], kind="stable")][:sentences]
    if not len(rows):
        raise InputError(f"the run {run} has no test sentence of {n} tokens")
    attention = np.asarray(model(test.tokens[rows, :n]).attention, np.float64)
    return attention / attention.sum(-1, keepdims=True)
