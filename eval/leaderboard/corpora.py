"""Sentences for the board, from the corpora that there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Cases, from_split, from_texts
from jaxflow.models import Model
from jaxflow.train.data import load_splits
from jaxflow.train.run import read_config

__all__ = ["SAMPLES", "agreement_cases", "labelled_cases"]

SAMPLES = 2000


def agreement_cases(
    run: Path | None,
    model: Model,
    data: Path | None,
    split: str | None,
    samples: int | None,
    seed: int,
) -> Cases:
    """Draw sentences of an agreement corpus.

    Parameters
    ----------
    run
        The folder of the run, whose own corpus is taken where there is no `data`.
    model
        An agreement encoder.
    data
        A folder of ``numpred.*`` files.
    split
        None takes ``subjects``, whose subjects are known, where there are any, else ``test``.
    samples
        None takes 2,000, or all where there are fewer.
    seed
        Of the draw.

    Raises
    ------
    InputError
        If there is no run, corpus or split, or too few sentences.
    """
    from jaxflow.train.config import PRESETS

    config = PRESETS["simple"] if run is None else read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    if data is not None:
        config = dataclasses.replace(config, data=data)
    splits = load_splits(config, model.whole_words)
    name = split or ("subjects" if "subjects" in splits else "test")
    if name not in splits:
        raise InputError(f"split must be one of {', '.join(splits)}, got {name!r}")
    chosen = splits[name]
    count = min(SAMPLES, len(chosen)) if samples is None else samples
    return from_split(model, chosen, count, seed)


def labelled_cases(model: Model, data: Path, samples: int | None, seed: int) -> Cases:
    """Draw sentences of ``dev.tsv`` in a folder of labelled sentences.

    Raises
    ------
    InputError
        If the corpus cannot be read, its labels are no classes of the model, or it has too few
        sentences.
    """
    from jaxflow.train.sst2 import load_sst2

    split = load_sst2(data)["dev"]
    labels = np.asarray(split.labels)
    if len(labels) and labels.max() >= model.config.classes:
        raise InputError(
            f"labels must be below the model's {model.config.classes} classes, got {labels.max()}"
        )
    count = min(SAMPLES, len(labels)) if samples is None else samples
    if not 1 <= count <= len(labels):
        raise InputError(f"samples must be from 1 to {len(labels)}, got {samples}")
    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:count])
    return from_texts(model, [split.texts[row] for row in rows], labels[rows].tolist())
