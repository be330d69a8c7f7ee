"""Attention to benchmark on: that of a trained model, on the test sentences of its corpus."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models import Model, load
from jaxflow.models.shipped import shipped_model
from jaxflow.train.batches import EncodedSplit
from jaxflow.train.config import AGREEMENT
from jaxflow.train.data import load_splits
from jaxflow.train.run import read_config

__all__ = ["Trained", "corpus_attention", "from_run", "from_shipped", "trained_attention"]

Attention = NDArray[np.float64]

# Lengths are padded to multiples of this: a model compiles for every shape that it sees.
_STEP = 8
_BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and the sentences it is asked about.

    Attributes
    ----------
    model
        The model.
    test
        The encoded test sentences of its corpus.
    """

    model: Model
    test: EncodedSplit


def from_run(run: Path) -> Trained:
    """Load a trained run and the test sentences of its corpus.

    Raises
    ------
    InputError
        If there is no run or its corpus is gone.
    """
    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    model = load(run)
    return Trained(model, load_splits(config, model.whole_words)["test"])


def from_shipped(data: Path) -> Trained:
    """Load the model that comes along and the test sentences of the agreement corpus in `data`.

    Raises
    ------
    InputError
        If the folder has no such corpus.
    """
    model = load(shipped_model())
    config = dataclasses.replace(AGREEMENT, data=data)
    return Trained(model, load_splits(config, model.whole_words)["test"])


def trained_attention(trained: Trained, n: int, *, sentences: int = 1) -> Attention:
    """Return a trained model's attention on test sentences of n tokens.

    Parameters
    ----------
    trained
        The model and its sentences.
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
        If no sentence is long enough.
    """
    test = trained.test
    rows = np.flatnonzero(test.lengths >= n)
    rows = rows[np.argsort(test.lengths[rows], kind="stable")][:sentences]
    if not len(rows):
        raise InputError(f"the trained model's corpus has no test sentence of {n} tokens")
    attention = np.asarray(trained.model(test.tokens[rows, :n]).attention, np.float64)
    return attention / attention.sum(-1, keepdims=True)


def corpus_attention(trained: Trained, sentences: int) -> list[NDArray[np.float32]]:
    """Return the attention of the first test sentences of a corpus, grouped by length.

    Parameters
    ----------
    trained
        The model and its sentences.
    sentences
        How many; fewer where the corpus has fewer.

    Returns
    -------
    list of numpy.ndarray
        For every length ``[B, L, H, n, n]`` float32 as the model gave it, without padding.
    """
    model, test = trained.model, trained.test
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
