"""How much of what reaches the readout, ``[CLS]``, comes from the subject noun, layer by layer.

The figure that a flow regulariser raises (`jaxflow.train.regulariser`), measured on sentences that
were not trained on, without dropout, and for the other two methods too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.score.engine import flow_at, read_places, rows_at
from jaxflow.models import Model, load
from jaxflow.models.tokenizer import PAD
from jaxflow.train.batches import EncodedSplit, evaluation_batches
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import load_splits
from jaxflow.train.run import read_config

__all__ = ["METHODS", "SubjectMass", "compare_runs", "subject_mass"]

#: What is measured, in the order of the table.
METHODS = ("flow", "rollout", "raw")
BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectMass:
    """The subject's part in S sentences.

    Attributes
    ----------
    shares
        Method (`METHODS`) -> float64 ``[S, L]``: the subject's part of the sum of the ``[CLS]``
        row over all tokens.
    even
        float64 ``[S]``: one over the number of tokens, ``[CLS]`` included; what an even row gives.
    accuracy
        Of the model, on every sentence of the split; one that is too long counts as wrong.
    """

    shares: Mapping[str, np.ndarray]
    even: np.ndarray
    accuracy: float


def subject_mass(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    *,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SubjectMass:
    """Measure a model on the sentences of a split whose subject is known.

    Parameters
    ----------
    model, split, lengths
        The model, sentences, and the padded lengths to compile it for.
    threads
        For flow; None takes all cores.
    report
        Called with the number of sentences done and their total.

    Returns
    -------
    SubjectMass
        In the order of the split, sentences of unknown subject left out.

    Raises
    ------
    InputError
        If no sentence says which word is its subject.
    """
    known = split.subject_index >= 0
    if not known.any():
        raise InputError(
            "the split must say which word is the subject, got no sentence that does: the built-in "
            "grammar, the full corpus and the split subjects of a folder do"
        )
    shape = (len(split), model.config.layers)
    shares = {name: np.zeros(shape) for name in METHODS}
    right = np.zeros(len(split), bool)
    rows_on_device = _row_function(model)
    done = 0
    for rows, batch in evaluation_batches(split, lengths, BATCH):
        found = rows_on_device(model.params, batch["tokens"])
        now = {name: np.asarray(values)[: len(rows)] for name, values in found.items()}
        right[rows] = now.pop("predicted") == split.labels[rows]
        mask = batch["tokens"][: len(rows)] != PAD
        places = np.asarray(read_places(model, mask))
        now["flow"] = flow_at(now.pop("attention"), places, mask, residual=0.5, threads=threads)
        subject = np.maximum(split.subject_index[rows], 0)[:, None, None]
        for name, row in now.items():
            reached = np.take_along_axis(row, subject, -1)[..., 0]
            shares[name][rows] = reached / row.sum(-1, dtype=np.float64)
        done += len(rows)
        report(done, len(split))
    return SubjectMass(
        {name: values[known] for name, values in shares.items()},
        1 / split.lengths[known],
        float(right.sum() / (len(split) + split.too_long)),
    )


def _row_function(model: Model) -> Callable[..., dict[str, jax.Array]]:
    """Build ``(params, tokens [B, n])`` -> class, attention, the other methods' ``[B, L, n]``."""
    apply: Callable[..., Any] = model.module.apply

    @jax.jit
    def rows(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        mask = tokens != PAD
        output = apply(params, tokens, mask)
        attention = output.attention
        places = read_places(model, mask)
        return {
            "predicted": output.logits.argmax(-1),
            "attention": attention,
            "rollout": rows_at(jaxflow.rollout(attention, mask=mask), places),
            "raw": rows_at(jaxflow.raw_attention(attention, mask=mask), places),
        }

    return rows


def compare_runs(
    runs: Sequence[Path],
    *,
    split: str = "test",
    data: Path | None = None,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, SubjectMass]:
    """Measure finished runs on the same sentences.

    Parameters
    ----------
    runs
        Folders of `jaxflow.train.loop.train`, trained on one corpus.
    split
        Which of the splits that they were not trained on.
    data
        Where the corpus lies now, if it has moved since training.
    threads, report
        As for `subject_mass`, counted over all runs.

    Returns
    -------
    dict
        By the folder's name as it was given.

    Raises
    ------
    InputError
        If a folder holds no finished run, the runs have different sentences or layers, or the
        split is not there or knows no subjects.
    """
    configs = [_config_of(run, data) for run in runs]
    first = configs[0]
    for run, config in zip(runs, configs, strict=True):
        for name in ("corpus", "data", "seed", "positions", "layers"):
            mine, theirs = getattr(config, name), getattr(first, name)
            if mine != theirs:
                raise InputError(
                    f"runs are compared on the same sentences and layers, but {name} is {theirs} "
                    f"in {runs[0]} and {mine} in {run}"
                )
    found = {}
    for number, (run, config) in enumerate(zip(runs, configs, strict=True)):
        model = load(run)
        splits = load_splits(config, model.whole_words)
        if split not in splits:
            raise InputError(f"split must be one of {', '.join(splits)}, got {split!r}")

        def count(done: int, total: int, number: int = number) -> None:
            report(number * total + done, len(runs) * total)

        found[str(run)] = subject_mass(
            model, splits[split], config.lengths, threads=threads, report=count
        )
    return found


def _config_of(run: Path, data: Path | None) -> TrainConfig:
    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    return config if data is None else dataclasses.replace(config, data=data)
