"""Fine-tune a pretrained model on labelled sentences, in one resumable run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models import Model, with_head
from jaxflow.train.batches import BatchPlan, EncodedSplit, encode_sentences
from jaxflow.train.config import FineTuneConfig
from jaxflow.train.data import RunData
from jaxflow.train.loop import Report, TrainResult, fit_sentences, ignore
from jaxflow.train.mesh import Layout
from jaxflow.train.sst2 import LABEL_NAMES, Sentences
from jaxflow.train.step import finetune_loss, make_finetune_optimizer

# Rates of dropout by the names that configurations have for them.
_RATES = ("dropout", "attention_dropout", "readout_dropout", "embedding_dropout")


def finetune(
    start: Model,
    corpus: Mapping[str, Sentences],
    config: FineTuneConfig,
    run: Path,
    report: Report = ignore,
    stop_after: int | None = None,
    *,
    layout: Layout | None = None,
) -> TrainResult:
    """Fine-tune a model of text into a run's folder, or resume the run that is there.

    Parameters
    ----------
    start
        Any model of text that `jaxflow.models.load` gives. One without classes gets a fresh head.
    corpus
        Splits by name; ``train`` is trained on, ``dev`` scored after every epoch.
    config
        The run's configuration.
    run, report, stop_after, layout
        As in `jaxflow.train.loop.fit`; ``transformers`` reads ``model/`` too.

    Returns
    -------
    TrainResult
        The model with its accuracy on every labelled split that was not trained on.

    Raises
    ------
    InputError
        If model or corpus are unusable, and as `jaxflow.train.loop.fit` does.
    """
    model = prepare_model(start, config)
    positions = min(config.positions, model.config.positions)
    config = dataclasses.replace(config, positions=positions)
    train = corpus["train"]
    encoded = encode_sentences(train.texts, train.labels, model.text, positions)
    plan = BatchPlan(
        train=encoded,
        buckets=config.lengths,
        batch=config.batch,
        epochs=config.epochs,
        seed=config.seed,
    )
    data = RunData(model.text, plan, encode_held_out(corpus, model, positions), encoded.too_long)
    started = _checksum(model.params, encoded.tokens, encoded.labels)
    return fit_sentences(
        model,
        data,
        dataclasses.replace(config, started_from=started),
        run,
        report,
        loss=finetune_loss(model, config),
        optimizer=make_finetune_optimizer(config, model, len(plan)),
        stop_after=stop_after,
        layout=layout,
    )


def prepare_model(model: Model, config: FineTuneConfig) -> Model:
    """Return the model to begin with: a classifier of SST-2's classes, with the run's dropout.

    Raises `InputError` if the model has no text, or classes of another number.
    """
    if model.tokenizer is None or not hasattr(model.config, "vocabulary"):
        raise InputError("fine-tuning on sentences needs a model of text with its tokenizer")
    have = model.config
    if have.head == "classification" and have.classes != len(LABEL_NAMES):
        raise InputError(
            f"the model must tell {len(LABEL_NAMES)} classes apart ({', '.join(LABEL_NAMES)}), "
            f"this one has {have.classes}"
        )
    rates: dict[str, Any] = {}
    if config.dropout is not None:
        rates = {name: config.dropout for name in _RATES if name in have.__dataclass_fields__}
    if have.head != "classification":
        return with_head(model, "classification", labels=LABEL_NAMES, seed=config.seed, **rates)
    return dataclasses.replace(model, config=dataclasses.replace(have, **rates))


def encode_held_out(
    corpus: Mapping[str, Sentences], model: Model, positions: int
) -> dict[str, EncodedSplit]:
    """Encode the labelled splits that are not trained on."""
    return {
        name: encode_sentences(split.texts, split.labels, model.text, positions)
        for name, split in corpus.items()
        if name != "train" and split.labelled
    }


def _checksum(params: Any, tokens: np.ndarray, labels: np.ndarray) -> str:
    """Return a checksum of parameters and training rows, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    for rows in (tokens, labels):
        digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]
