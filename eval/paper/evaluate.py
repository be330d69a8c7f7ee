"""Evaluate a trained model: the tables, the claims and the files that hold them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.protocol import ProtocolConfig, choose, score_sentences
from jaxflow.eval.paper.report import Accuracy, Evaluation, write_reports
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.paper.tables import build_tables
from jaxflow.eval.report import versions
from jaxflow.eval.score.target import scoring_of
from jaxflow.models import Model, load
from jaxflow.train.batches import EncodedSplit, accuracies
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import load_splits
from jaxflow.train.mesh import layout_of
from jaxflow.train.run import config_of


def evaluate(
    model: Model,
    splits: Mapping[str, EncodedSplit],
    config: TrainConfig,
    protocol: ProtocolConfig,
    out: Path,
    *,
    accuracy: Accuracy | None = None,
    seconds: float | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a model's test sentences and write the tables and scores to the folder `out`.

    `splits` are those it was not trained on, ``test`` among them, `config` is how it was trained;
    `accuracy` by split and the `seconds` of training are recorded where they are known. `report` is
    called with the number of sentences done and their total. Raises `InputError` if there are too
    few sentences, the model cannot serve the protocol or the folder cannot be written.
    """
    protocol = protocol.resolved(model)
    test = splits["test"]
    choose(test, protocol)  # refuse impossible requests before the slow part
    if accuracy is None:
        accuracy = accuracies(spread(model), splits, config.lengths)
    scores, extra = score_sentences(model, test, config.lengths, protocol, report)
    return write_evaluation(
        out,
        scores,
        extra,
        model=model,
        config=config,
        protocol=protocol,
        accuracy=accuracy,
        too_long=test.too_long,
        seconds=seconds,
    )


def write_evaluation(
    out: Path,
    scores: SentenceScores,
    extra: Mapping[str, np.ndarray],
    *,
    model: Model,
    config: TrainConfig,
    protocol: ProtocolConfig,
    accuracy: Accuracy,
    too_long: int,
    seconds: float | None = None,
) -> Evaluation:
    """Make tables and claims of scores and write the files of an evaluation.

    `extra` are further arrays for ``scores.npz``, `accuracy` is by split, ``test`` among them,
    `too_long` is the number of test sentences left out for their length, and `seconds` is recorded.
    Raises `InputError` if the folder cannot be written.
    """
    protocol = protocol.resolved(model)
    evaluation = Evaluation(
        tables=build_tables(scores, protocol.seed),
        claims=judge_claims(scores, protocol.seed),
        accuracy=accuracy,
        scores=scores,
        scoring=scoring_of(model, protocol.target, protocol.replacement),
    )
    described = {
        "train": config.to_dict(),
        "protocol": dataclasses.asdict(protocol),
        "model": model.config.to_dict(),
        "training_seconds": seconds,
        "test_sentences_too_long": too_long,
    }
    return write_reports(out, evaluation, {"config": described, "versions": versions()}, extra)


def spread(model: Model) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """Return ``(tokens, mask) [B, n] -> probabilities [B', C]`` on this process's devices.

    B' is B, or the next multiple of the devices: the first B rows are those of `tokens`.
    """
    layout = layout_of(own=True)
    model = dataclasses.replace(model, params=layout.put_replicated(model.params))
    return lambda tokens, mask: model.probabilities(*layout.put_filled((tokens, mask)))


def evaluate_run(
    run: Path,
    protocol: ProtocolConfig,
    out: Path,
    *,
    data: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a finished run on its own corpus, or on the one in `data`.

    Raises `InputError` if there is no finished run, or its corpus is gone.
    """
    config = config_of(run, data)
    model = load(run)
    splits = load_splits(config, model.whole_words)
    return evaluate(model, splits, config, protocol, out, report=report)


def check_out(out: Path) -> None:
    """Raise `InputError` if a folder cannot be written, before the work; nothing is created."""
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"the folder {out} cannot be written: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"the folder {out} cannot be written: {place} does not allow it")
