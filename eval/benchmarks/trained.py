"""Attention to benchmark on: that of a trained run, on the test sentences of its corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models import Model, load
from jaxflow.train.batches import EncodedSplit
from jaxflow.train.data import load_splits
from jaxflow.train.journal import read_config

__all__ = ["corpus_attention", "trained_attention"]

Attention = NDArray[np.float64]

# Lengths are padded to multiples of this: a model compiles for every shape that it sees.
_STEP = 8
_BATCH = 128


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
    model, test = _load(run)
    rows = np.flatnonzero(test.lengths >= n)
    rows = rows[np.argsort(test.lengths[rows], kind="stable")][:sentences]
    if not len(rows):
        raise InputError(f"the run {run} has no test sentence of {n} tokens")
    attention = np.asarray(model(test.tokens[rows, :n]).attention, np.float64)
    return attention / attention.sum(-1, keepdims=True)


def corpus_attention(run: Path, sentences: int) -> list[NDArray[np.float32]]:
    """Return the attention of the first test sentences of a run's corpus, grouped by length.

    Parameters
    ----------
    run
        The run's folder.
    sentences
        How many; fewer where the corpus has fewer.

    Returns
    -------
    list of numpy.ndarray
        For every length ``[B, L, H, n, n]`` float32 as the model gave it, without padding.

    Raises
    ------
    InputError
        If there is no run or its corpus is gone.
    """
    model, test = _load(run)
    rows = np.arange(min(sentences, len(test.lengths)))
    lengths = test.lengths[rows]
    groups: dict[int, list[NDArray[np.float32]]] = {}
    for width in np.unique(-(-lengths // _STEP) * _STEP):
        inside = rows[(lengths <= width) & (lengths > width - _STEP)]
        for start in range(0, len(inside), _BATCH):
            some = inside[start : start + _BATCH]
            # The batch is filled up with its first sentence, again for the sake of one shape.
            padded = np.concatenate([some, np.repeat(some[:1], _BATCH - len(some))])
            tokens = test.tokens[padded, :width]
            attention = np.asarray(model(tokens).attention)
            for sentence, n in zip(attention, test.lengths[some], strict=False):
                groups.setdefault(int(n), []).append(sentence[..., :n, :n])
    return [np.stack(groups[n]) for n in sorted(groups)]


def _load(run: Path) -> tuple[Model, EncodedSplit]:
    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    model = load(run)
    return model, load_splits(config, model.tokenizer)["test"]
