"""Run the training loop: from the first step, or the last checkpoint, to a finished model."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from jaxflow.models import EncoderConfig, Model, init, save, save_pretrained
from jaxflow.stopping import Stopped, stopping
from jaxflow.train.batches import Batches, BatchPlan, EncodedSplit, accuracies, iterate
from jaxflow.train.config import FitConfig, TextConfig, TrainConfig
from jaxflow.train.data import RunData, encoder_config, prepare
from jaxflow.train.distributed import StopRequest, alike, by_each, check_same
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.regulariser import check_derivative
from jaxflow.train.run import RunFolder, open_run
from jaxflow.train.step import (
    Loss,
    Metrics,
    TrainState,
    agreement_loss,
    averaged,
    check_steps,
    compiling,
    from_rows,
    init_state,
    make_optimizer,
    make_step,
    means,
    to_rows,
)

LOG_EVERY = 50

# Splits scored after every epoch; the test splits are left alone until the end.
WATCHED = ("val", "subjects", "dev")

Scores = dict[str, dict[str, float | int]]
"""Split -> ``accuracy`` and further numbers such as its size ``n``."""

Score = Callable[[Callable[[Any], jax.Array]], Scores]
"""Function of ``predict(inputs) -> probabilities [B, C]`` that returns the accuracy of splits."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Training progress passed to callbacks.

    Attributes
    ----------
    step, steps
        Steps taken, and of how many.
    message
        A line to show, such as the accuracy after an epoch; empty if there is none.
    loss, accuracy, subject_share
        Mean over the steps since the last report, the loss without the regulariser's term; the
        share is NaN in a run without one.
    compiled
        Whether the step has just been compiled: the next ones take their usual time.
    """

    step: int
    steps: int
    message: str = ""
    loss: float = math.nan
    accuracy: float = math.nan
    subject_share: float = math.nan
    compiled: bool = False


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Report nothing."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes
    ----------
    model
        The trained model.
    accuracy
        Accuracy by split; empty of a run that was stopped before its end.
    seconds
        Of training, those before a checkpoint included.
    held_out
        The encoded splits that were not trained on, of a run on sentences.
    """

    model: Model
    accuracy: Scores
    seconds: float
    held_out: Mapping[str, EncodedSplit] = dataclasses.field(default_factory=dict)


def fit(
    model: Model,
    batches: Batches,
    config: FitConfig,
    run: Path,
    *,
    loss: Loss,
    score: Score,
    watch: Score | None = None,
    optimizer: optax.GradientTransformation | None = None,
    report: Report = ignore,
    stop_after: int | None = None,
    layout: Layout | None = None,
) -> TrainResult:
    """Train any model with a classification head into a run's folder, or resume the run there.

    Public as ``jaxflow.train.fit``. The same arguments give the same parameters, bit for bit, also
    where the run was cut off in between.

    Parameters
    ----------
    model
        The model to begin with: configuration, first parameters, and a tokenizer or None.
    batches
        The training batches by step, such as `jaxflow.train.ArrayBatches`.
    config
        A `FitConfig` or a frozen dataclass derived from it; it is written to ``config.json``, and a
        folder with another one is refused.
    run
        The folder: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` (read by
        `jaxflow.models.load`) and ``accuracy.json`` are written there.
    loss
        ``loss(params, rng, **batch) -> (value, metrics)``: the scalar that is minimised, and
        scalars by name for the journal, ``loss`` and ``accuracy`` among them, as
        `jaxflow.train.cross_entropy` returns. `rng` is a key of that step alone.
    score
        Returns the accuracy of the finished model by split, from ``predict(inputs)``, the classes'
        probabilities ``[B, C]`` of a batch of inputs.
    watch
        The same, called after every epoch for the journal; None leaves it out.
    optimizer
        By default AdamW by the configuration: `jaxflow.train.make_optimizer`.
    report
        Called with the `Progress` every few steps.
    stop_after
        Steps after which to stop without a model, as if cut off right after a checkpoint.
    layout
        The devices to train on, and the arrays on each; None takes all, each with all parameters.
        It is no part of the run: one begun on eight devices can go on with one, and in one process
        if it was begun by several.

    Returns
    -------
    TrainResult
        The model after the last step with its accuracy.

    Raises
    ------
    InputError
        If the folder is unusable or in use, the devices do not divide the batch, or loss, gradient
        or parameters stop being finite; the last good checkpoint is kept then.
    Stopped
        After SIGINT or SIGTERM, the step that was begun being finished and kept.
    """
    layout = layout_of() if layout is None else layout
    layout.check_batch(config.batch)
    steps = len(batches)
    optimizer = make_optimizer(config, steps) if optimizer is None else optimizer
    apply: Callable[..., Any] = model.module.apply
    probabilities = jax.jit(
        lambda params, inputs: jax.nn.softmax(apply(params, inputs, method="classify"))
    )

    def predict(state: TrainState, inputs: Any) -> jax.Array:
        return layout.own(probabilities(averaged(state), layout.put_filled(inputs)))

    with open_run(run, config, layout, lambda line: report(Progress(0, steps, line))) as folder:
        state, pending = folder.begin(init_state(model.params, optimizer))
        if int(state.step):
            report(Progress(int(state.step), steps, f"going on after step {int(state.step)}"))
        loop = _Loop(batches, layout.rows(config.batch), folder, config.checkpoint_every, report)
        until = steps if stop_after is None else min(steps, stop_after)
        step_function = layout.step(make_step(loss, optimizer, config.seed))
        # Of other batches and on several devices, each shape is compiled at its first step.
        if isinstance(batches, BatchPlan) and hasattr(step_function, "lower"):
            _compile_steps(step_function, state, batches, until, report)
        state = loop.run(
            state,
            step_function,
            until,
            from_rows(pending),
            None if watch is None else lambda state: watch(partial(predict, state)),
        )
        finished = dataclasses.replace(model, params=layout.whole(averaged(state)))
        if until < steps:
            return TrainResult(finished, {}, loop.seconds)
        accuracy = score(partial(predict, state))
        write = save if isinstance(model.config, EncoderConfig) else save_pretrained
        folder.finish(lambda place: write(place, finished), accuracy)
        return TrainResult(finished, accuracy, loop.seconds)


def _compile_steps(
    step_function: Any, state: TrainState, plan: BatchPlan, until: int, report: Report
) -> None:
    """Compile the step for every padded length of the epoch, reporting before it and after it."""
    step, begun = int(state.step), time.monotonic()
    firsts = plan.first_steps(step, until) if step < until else []
    examples = {first: (state, plan[first]) for first in firsts}
    if not examples:
        return
    lengths = sorted(batch["tokens"].shape[1] for _, batch in examples.values())
    shown = ", ".join(map(str, lengths))
    report(Progress(step, len(plan), f"compiling the step for sentences padded to {shown} tokens"))
    with compiling(step_function, examples) as programs:
        for program in programs.values():
            program.result()
    report(
        Progress(step, len(plan), f"compiled in {time.monotonic() - begun:.0f} s", compiled=True)
    )


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The fixed inputs of the loop; the training state is passed through `run` alone."""

    batches: Batches
    rows: slice  # of each batch those of this process
    folder: RunFolder
    checkpoint_every: int
    report: Report
    begun: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.folder.seconds_before + time.monotonic() - self.begun

    def run(
        self,
        state: TrainState,
        step_function: Callable[..., tuple[TrainState, Metrics]],
        until: int,
        pending: list[Metrics],
        watch: Callable[[TrainState], Scores] | None,
    ) -> TrainState:
        """Train up to step `until`, logging, scoring and writing checkpoints.

        `pending` are the metrics of the last steps before, which no line of the journal has yet.
        """
        step = int(state.step)
        with stopping() as own:
            requested = StopRequest(own)
            for batch in iterate(self.batches, step, self.rows) if step < until else ():
                state, metrics = step_function(state, **batch)
                if pending and pending[0].keys() != metrics.keys():
                    self.folder.refuse_pending()
                pending.append(metrics)
                step += 1
                epoch_ends = step % self.batches.steps_per_epoch == 0
                keeps = step % self.checkpoint_every == 0 or step == until or epoch_ends
                if keeps or len(pending) >= LOG_EVERY:
                    self._log(step, pending)
                    pending = []
                if epoch_ends and watch is not None:
                    self._score(step, watch(state))
                if keeps:
                    self.folder.keep(state)
                if (number := requested(wait=keeps)) is not None:
                    if not keeps:  # between two lines of the journal
                        with alike():
                            check_steps(step, pending)
                        self.folder.keep(state, to_rows(pending))
                    with alike():
                        raise Stopped(number, f"after step {step}, whose checkpoint is written")
                if step == until:
                    break
        return state

    def _log(self, step: int, pending: list[Metrics]) -> None:
        with alike():
            check_steps(step, pending)
        found = means(pending)
        self.folder.write(step, **found, seconds=round(self.seconds, 3))
        names = ("loss", "accuracy", "subject_share")
        loss, accuracy, share = (found.get(name, math.nan) for name in names)
        self.report(Progress(step, len(self.batches), "", loss, accuracy, share))

    def _score(self, step: int, scores: Scores) -> None:
        values = {name: score["accuracy"] for name, score in scores.items()}
        self.folder.write(step, held_out=values, seconds=round(self.seconds, 3))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        epoch = step // self.batches.steps_per_epoch
        self.report(Progress(step, len(self.batches), f"epoch {epoch}: accuracy {shown}"))


def fit_sentences(
    model: Model,
    data: RunData,
    config: TextConfig,
    run: Path,
    report: Report,
    **options: Any,
) -> TrainResult:
    """Call `fit` on encoded sentences, scoring their held-out splits."""
    if data.too_long:
        long = f"{data.too_long} training sentences exceed {config.positions} tokens"
        report(Progress(0, len(data.plan), f"{long} and are left out"))
    watched = {name: data.held_out[name] for name in WATCHED if name in data.held_out}
    result = fit(
        model,
        data.plan,
        config,
        run,
        # The model takes what is not the padding token to be real, as it did in training.
        score=lambda predict: accuracies(
            lambda tokens, _: predict(tokens), data.held_out, config.lengths
        ),
        watch=lambda predict: accuracies(
            lambda tokens, _: predict(tokens), watched, config.lengths
        ),
        report=report,
        **options,
    )
    return dataclasses.replace(result, held_out=data.held_out)


def train(
    config: TrainConfig,
    run: Path,
    report: Report = ignore,
    stop_after: int | None = None,
    *,
    layout: Layout | None = None,
) -> TrainResult:
    """Train an agreement encoder into a run's folder, or resume the run that is there.

    Parameters
    ----------
    config
        The run's configuration.
    run, report, stop_after, layout
        As in `fit`.

    Returns
    -------
    TrainResult
        The model with its accuracy on every split that was not trained on.

    Raises
    ------
    InputError
        If the corpus is unusable, and as `fit` does.
    Stopped
        As `fit` does.
    """
    layout = layout_of() if layout is None else layout
    data, sizes = by_each(lambda: _prepared(config, layout))
    check_same("the corpus", data.plan.checksum)
    return fit_sentences(
        Model(sizes, init(sizes, config.seed), data.tokenizer),
        data,
        config,
        run,
        report,
        loss=agreement_loss(sizes, config),
        stop_after=stop_after,
        layout=layout,
    )


def _prepared(config: TrainConfig, layout: Layout) -> tuple[RunData, EncoderConfig]:
    layout.check_batch(config.batch)
    if config.flow_weight:
        check_derivative()
    data = prepare(config)
    return data, encoder_config(config, data.tokenizer)
