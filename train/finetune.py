"""Fine-tuning: a pretrained model and labelled sentences to a classifier, in one resumable run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, Model, save, save_pretrained, with_head
from jaxflow.train.batches import BatchPlan, EncodedSplit, encode_sentences
from jaxflow.train.finetune_config import FineTuneConfig
from jaxflow.train.finetune_step import (
    averaged,
    checksum,
    make_finetune_optimizer,
    make_finetune_step,
    start_state,
)
from jaxflow.train.loop import Loop
from jaxflow.train.measured import measured
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.progress import Progress, say_line
from jaxflow.train.run_folder import open_run
from jaxflow.train.sst2 import LABEL_NAMES, Sentences
from jaxflow.train.step import TrainState

__all__ = ["FineTuneResult", "encode_held_out", "finetune", "prepare_model"]

# Rates of dropout by the names that configurations have for them.
_RATES = ("dropout", "attention_dropout", "readout_dropout", "embedding_dropout")


@dataclasses.dataclass(frozen=True)
class FineTuneResult:
    """A finished run: the model, its held-out splits, their accuracy and seconds of training."""

    model: Model
    held_out: dict[str, EncodedSplit]
    accuracy: dict[str, dict[str, float | int]]
    seconds: float


def prepare_model(
    model: Model, config: FineTuneConfig, labels: tuple[str, ...] = LABEL_NAMES
) -> Model:
    """Return the model to begin with: a classifier of these classes, with the run's dropout.

    Raises
    ------
    InputError
        If the model has no text, or classes of another number.
    """
    if model.tokenizer is None or not hasattr(model.config, "vocabulary"):
        raise InputError("fine-tuning on sentences needs a model of text with its tokenizer")
    have = model.config
    if have.head == "classification" and have.classes != len(labels):
        raise InputError(
            f"the model must tell {len(labels)} classes apart ({', '.join(labels)}), this one has "
            f"{have.classes}"
        )
    rates: dict[str, Any] = {}
    if config.dropout is not None:
        rates = {name: config.dropout for name in _RATES if name in have.__dataclass_fields__}
    if have.head != "classification":
        return with_head(model, "classification", labels=labels, seed=config.seed, **rates)
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


def finetune(
    start: Model,
    corpus: Mapping[str, Sentences],
    config: FineTuneConfig,
    run: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    *,
    layout: Layout | None = None,
) -> FineTuneResult:
    """Fine-tune a model into a run's folder, going on from its last checkpoint if there is one.

    Parameters
    ----------
    start
        Any model of text that `jaxflow.models.load` gives. One without classes gets a fresh head.
    corpus
        Splits by name; ``train`` is trained on, ``dev`` scored after every epoch.
    config
        The run's configuration.
    run
        The folder: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` (which
        `jaxflow.models.load` and ``transformers`` read) and ``accuracy.json`` are written there.
    report
        Called with the progress every few steps.
    stop_after
        Steps after which to stop without a model, as if cut off right after a checkpoint.
    layout
        The devices to train on, and what lies on each, as in `jaxflow.train.loop.train`.

    Returns
    -------
    FineTuneResult
        The model with its accuracy on every labelled split that was not trained on.

    Raises
    ------
    InputError
        If model, corpus or folder are unusable, the devices do not divide the batch, or the loss
        stops being finite; the last good checkpoint is kept then.
    """
    layout = layout_of() if layout is None else layout
    layout.check_batch(config.batch)
    model = prepare_model(start, config)
    positions = min(config.positions, model.config.positions)
    config = dataclasses.replace(config, positions=positions)
    train = corpus["train"]
    encoded = encode_sentences(train.texts, train.labels, model.text, positions)
    held_out = encode_held_out(corpus, model, positions)
    plan = BatchPlan(
        train=encoded,
        extra=None,
        share=0.0,
        buckets=config.lengths,
        batch=config.batch,
        epochs=config.epochs,
        seed=config.seed,
    )
    began = checksum(model.params, encoded.tokens, encoded.labels)
    config = dataclasses.replace(config, started_from=began)
    steps = len(plan)
    optimizer = make_finetune_optimizer(config, model, steps)
    say = partial(say_line, report, steps)
    if encoded.too_long:
        say(f"{encoded.too_long} training sentences exceed {positions} tokens and are left out")
    with open_run(run, config, layout, say) as folder:
        state, untold = folder.begin(start_state(model, optimizer), measured())
        if int(state.step):
            report(Progress(int(state.step), steps, f"going on after step {int(state.step)}"))
        until = steps if stop_after is None else min(steps, stop_after)
        loop = Loop(
            plan=plan,
            rows=layout.rows(config.batch),
            watched={name: held_out[name] for name in ("dev",) if name in held_out},
            lengths=config.lengths,
            predict=_predictor(model, layout),
            folder=folder,
            checkpoint_every=config.checkpoint_every,
            report=report,
        )
        step_function = layout.step(make_finetune_step(model, optimizer, config))
        state = loop.run(state, step_function, until, untold)
        finished = dataclasses.replace(model, params=layout.whole(averaged(state)))
        if until < steps:
            return FineTuneResult(finished, held_out, {}, loop.seconds)
        accuracy = loop.accuracies(state, held_out)
        write = save if isinstance(model.config, EncoderConfig) else save_pretrained
        folder.finish(lambda place: write(place, finished), accuracy)
        return FineTuneResult(finished, held_out, accuracy, loop.seconds)


def _predictor(model: Model, layout: Layout) -> Callable[[TrainState, jax.Array], jax.Array]:
    apply: Callable[..., Any] = model.module.apply

    @jax.jit
    def probabilities(params: Any, tokens: jax.Array) -> jax.Array:
        return jax.nn.softmax(apply(params, tokens, method="classify"))

    return lambda state, tokens: layout.own(
        probabilities(averaged(state), layout.put_filled(tokens))
    )
