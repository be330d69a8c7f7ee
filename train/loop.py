"""Training from the first step, or from the last checkpoint, to a finished model."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax

from jaxflow import models
from jaxflow.models import EncoderConfig, Model
from jaxflow.stopping import Stopped, stopping
from jaxflow.train.batches import BatchPlan, EncodedSplit, accuracies, iterate
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import RunData, encoder_config, prepare
from jaxflow.train.distributed import Asked, alike, by_each, need_same
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.regulariser import need_derivative
from jaxflow.train.run import RunFolder, open_run
from jaxflow.train.step import (
    Metrics,
    TrainState,
    check_steps,
    from_rows,
    init_state,
    make_evaluation_step,
    make_optimizer,
    make_train_step,
    means,
    measured,
    to_rows,
)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes
    ----------
    step, steps
        Steps taken, and of how many.
    message
        A line to show, such as the accuracy after an epoch; empty if there is none.
    loss, accuracy, subject_share
        Mean over the steps since the last report, the loss without the regulariser's term; the
        share is NaN in a run without one.
    """

    step: int
    steps: int
    message: str = ""
    loss: float = math.nan
    accuracy: float = math.nan
    subject_share: float = math.nan


def say_line(report: Callable[[Progress], None], steps: int, message: str) -> None:
    """Report a line that is of no step."""
    report(Progress(0, steps, message))


LOG_EVERY = 50

# Splits scored after every epoch; the test splits are left alone until the end.
WATCHED = ("val", "subjects")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run: the model, its data, accuracy by split and seconds of training."""

    model: Model
    data: RunData
    accuracy: dict[str, dict[str, float | int]]
    seconds: float


def train(
    config: TrainConfig,
    run: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    *,
    layout: Layout | None = None,
) -> TrainResult:
    """Train a model into a run's folder, going on from its last checkpoint if there is one.

    Parameters
    ----------
    config
        The run's configuration.
    run
        The folder: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` and
        ``accuracy.json`` are written there.
    report
        Called with the progress every few steps.
    stop_after
        Steps after which to stop without a model, as if cut off right after a checkpoint.
    layout
        The devices to train on, and what lies on each; None takes all, each with all parameters.
        It is no part of the run: one begun on eight devices can go on with one, and in one process
        if it was begun by several.

    Returns
    -------
    TrainResult
        The model with its accuracy on every split that was not trained on.

    Raises
    ------
    InputError
        If the corpus or the folder is unusable or in use, the devices do not divide the batch, or
        loss or gradient stop being finite; the last good checkpoint is kept then.
    Stopped
        After SIGINT or SIGTERM, the step that was begun being finished and kept.
    """
    layout = layout_of() if layout is None else layout
    data, model = by_each(lambda: _prepared(config, layout))
    need_same("the corpus", data.plan.checksum)
    steps = len(data.plan)
    optimizer = make_optimizer(config, steps)
    say = partial(say_line, report, steps)
    if data.too_long:
        long = f"{data.too_long} training sentences exceed {config.positions} tokens"
        say(f"{long} and are left out")
    with open_run(run, config, layout, say) as folder:
        state, untold = folder.begin(
            init_state(model, optimizer, config.seed), measured(config.flow_weight)
        )
        if int(state.step):
            report(Progress(int(state.step), steps, f"going on after step {int(state.step)}"))
        until = steps if stop_after is None else min(steps, stop_after)
        predict = make_evaluation_step(model)
        loop = Loop(
            plan=data.plan,
            rows=layout.rows(config.batch),
            watched={name: data.held_out[name] for name in WATCHED if name in data.held_out},
            lengths=config.lengths,
            predict=lambda state, tokens: layout.own(
                predict(state.params, layout.put_filled(tokens))
            ),
            folder=folder,
            checkpoint_every=config.checkpoint_every,
            report=report,
            flow_weight=config.flow_weight,
        )
        step_function = layout.step(make_train_step(model, optimizer, config))
        state = loop.run(state, step_function, until, untold)
        finished = Model(model, layout.whole(state.params), data.tokenizer)
        if until < steps:
            return TrainResult(finished, data, {}, loop.seconds)
        accuracy = loop.accuracies(state, data.held_out)
        folder.finish(lambda place: models.save(place, finished), accuracy)
        return TrainResult(finished, data, accuracy, loop.seconds)


def _prepared(config: TrainConfig, layout: Layout) -> tuple[RunData, EncoderConfig]:
    layout.check_batch(config.batch)
    if config.flow_weight:
        need_derivative()
    data = prepare(config)
    return data, encoder_config(config, data.tokenizer)


@dataclasses.dataclass(frozen=True)
class Loop:
    """The loop's fixed surroundings; the state goes through `run` and nowhere else.

    Attributes
    ----------
    plan, rows
        All training batches, by step, and which rows of each are this process's.
    watched, lengths
        Splits that are scored after every epoch, and the lengths they are padded to.
    predict
        ``(state, tokens [B, n]) -> probabilities [B, C]``.
    folder, checkpoint_every
        Where states are kept, and after how many steps one is, besides the ends of epochs; it is
        told of every few steps.
    report
        Told of them too.
    flow_weight
        Weight of the regulariser's term in the loss.
    begun
        When this process began, by the monotonic clock.
    """

    plan: BatchPlan
    rows: slice
    watched: Mapping[str, EncodedSplit]
    lengths: tuple[int, ...]
    predict: Callable[..., jax.Array]
    folder: RunFolder
    checkpoint_every: int
    report: Callable[[Progress], None]
    flow_weight: float = 0.0
    begun: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a checkpoint included."""
        return self.folder.seconds_before + time.monotonic() - self.begun

    def run(
        self,
        state: TrainState,
        step_function: Callable[..., tuple[TrainState, Metrics]],
        until: int,
        untold: Sequence[Mapping[str, float]] = (),
    ) -> TrainState:
        """Take steps until `until`, logging, scoring and keeping checkpoints on the way.

        What the steps before found that no line of the journal tells yet is given as `untold`.

        Raises
        ------
        Stopped
            After SIGINT or SIGTERM, the step that was begun being finished and kept.
        """
        plan, steps = self.plan, len(self.plan)
        step = int(state.step)
        pending = from_rows(untold)
        with stopping() as own:
            asked = Asked(own)
            for batch in iterate(plan, step, self.rows) if step < until else ():
                state, metrics = step_function(state, **batch)
                pending.append(metrics)
                step += 1
                epoch_ends = step % plan.steps_per_epoch == 0
                keeps = step % self.checkpoint_every == 0 or step == until or epoch_ends
                if keeps or len(pending) >= LOG_EVERY:
                    self._log(step, steps, pending)
                    pending = []
                if epoch_ends:
                    self._score(step, steps, state)
                if keeps:
                    self.folder.keep(state)
                if (number := asked(wait=keeps)) is not None:
                    if not keeps:
                        self._put_off(step, pending, state)
                    with alike():
                        raise Stopped(number, f"after step {step}, whose checkpoint is written")
                if step == until:
                    break
        return state

    def accuracies(
        self, state: TrainState, splits: Mapping[str, EncodedSplit]
    ) -> dict[str, dict[str, float | int]]:
        """Score splits by a state, as `jaxflow.train.batches.accuracies` does."""
        return accuracies(lambda tokens: self.predict(state, tokens), splits, self.lengths)

    def _put_off(self, step: int, pending: list[Metrics], state: TrainState) -> None:
        """Keep a state between two lines of the journal."""
        with alike():
            check_steps(step, pending, self.flow_weight)
        self.folder.put_off(state, to_rows(pending))

    def _log(self, step: int, steps: int, pending: list[Metrics]) -> None:
        with alike():
            check_steps(step, pending, self.flow_weight)
        found = means(pending, self.flow_weight)
        self.folder.write(step, **found, seconds=round(self.seconds, 3))
        share = found.get("subject_share", math.nan)
        self.report(
            Progress(
                step, steps, loss=found["loss"], accuracy=found["accuracy"], subject_share=share
            )
        )

    def _score(self, step: int, steps: int, state: TrainState) -> None:
        scores = self.accuracies(state, self.watched)
        values = {name: score["accuracy"] for name, score in scores.items()}
        self.folder.write(step, held_out=values, seconds=round(self.seconds, 3))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        epoch = step // self.plan.steps_per_epoch
        self.report(Progress(step, steps, f"epoch {epoch}: accuracy {shown}"))
