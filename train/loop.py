"""Training from the first step, or from the last checkpoint, to a finished model."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.models import Model
from jaxflow.stopping import Stopped, stopping
from jaxflow.train.accuracy import accuracies
from jaxflow.train.batches import BatchPlan, EncodedSplit, iterate
from jaxflow.train.checkpoint import Checkpoints, all_finite, open_checkpoints
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import RunData, encoder_config, prepare
from jaxflow.train.divergence import check_steps
from jaxflow.train.journal import Journal, claim_run, open_journal, write_json
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.regulariser import need_derivative
from jaxflow.train.step import (
    Metrics,
    TrainState,
    init_state,
    make_evaluation_step,
    make_optimizer,
    make_train_step,
)

__all__ = ["Loop", "Progress", "TrainResult", "say_line", "train"]

LOG_EVERY = 50

# Splits scored after every epoch; the test splits are left alone until the end.
WATCHED = ("val", "subjects")


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
        It is no part of the run: one begun on eight devices can go on with one.

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
    layout.check_batch(config.batch)
    if config.flow_weight:
        need_derivative()
    data = prepare(config)
    model = encoder_config(config, data.tokenizer)
    steps = len(data.plan)
    if data.too_long:
        report(
            Progress(
                0,
                steps,
                f"{data.too_long} training sentences exceed {config.positions} "
                "tokens and are left out",
            )
        )
    optimizer = make_optimizer(config, steps)
    say = partial(say_line, report, steps)
    with claim_run(run, config), open_checkpoints(run / "checkpoints", say) as checkpoints:
        fresh = init_state(model, optimizer, config.seed)
        state = layout.put_state(checkpoints.restore(fresh) or fresh)
        if int(state.step):
            report(Progress(int(state.step), steps, f"going on after step {int(state.step)}"))
        journal = open_journal(run, int(state.step))
        try:
            until = steps if stop_after is None else min(steps, stop_after)
            predict = make_evaluation_step(model)
            loop = Loop(
                plan=data.plan,
                watched={name: data.held_out[name] for name in WATCHED if name in data.held_out},
                lengths=config.lengths,
                predict=lambda state, tokens: predict(state.params, layout.put_filled(tokens)),
                checkpoints=checkpoints,
                checkpoint_every=config.checkpoint_every,
                journal=journal,
                report=report,
                flow_weight=config.flow_weight,
            )
            step_function = layout.step(make_train_step(model, optimizer, config))
            state = loop.run(state, step_function, until)
        finally:
            journal.close()
        finished = Model(model, layout.whole(state.params), data.tokenizer)
        if until < steps:
            return TrainResult(finished, data, {}, loop.seconds)
        models.save(run / "model", finished)
        accuracy = accuracies(finished.probabilities, data.held_out, config.lengths)
        write_json(run / "accuracy.json", accuracy)
        return TrainResult(finished, data, accuracy, loop.seconds)


def say_line(report: Callable[[Progress], None], steps: int, message: str) -> None:
    """Report a line that is of no step."""
    report(Progress(0, steps, message))


@dataclasses.dataclass(frozen=True)
class Loop:
    """The loop's fixed surroundings; the state goes through `run` and nowhere else.

    Attributes
    ----------
    plan
        All training batches, by step.
    watched, lengths
        Splits that are scored after every epoch, and the lengths they are padded to.
    predict
        ``(state, tokens [B, n]) -> probabilities [B, C]``.
    checkpoints, checkpoint_every
        Where states are kept, and after how many steps one is, besides the ends of epochs.
    journal, report
        Told of every few steps.
    flow_weight
        Weight of the regulariser's term in the loss.
    begun
        When this process began, by the monotonic clock.
    """

    plan: BatchPlan
    watched: Mapping[str, EncodedSplit]
    lengths: tuple[int, ...]
    predict: Callable[..., jax.Array]
    checkpoints: Checkpoints
    checkpoint_every: int
    journal: Journal
    report: Callable[[Progress], None]
    flow_weight: float = 0.0
    begun: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a checkpoint included."""
        return self.journal.seconds_before + time.monotonic() - self.begun

    def run(
        self,
        state: TrainState,
        step_function: Callable[..., tuple[TrainState, Metrics]],
        until: int,
    ) -> TrainState:
        """Take steps until `until`, logging, scoring and keeping checkpoints on the way.

        Raises
        ------
        Stopped
            After SIGINT or SIGTERM, the step that was begun being finished and kept.
        """
        plan, steps = self.plan, len(self.plan)
        step = int(state.step)
        pending = [
            Metrics(**{name: jnp.float32(value) for name, value in row.items()})
            for row in self.journal.taken_up(step, self._measured())
        ]
        with stopping() as asked:
            for batch in iterate(plan, step) if step < until else ():
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
                    self._keep(state)
                if (number := asked()) is not None:
                    if not keeps:
                        self._put_off(step, pending, state)
                    raise Stopped(number, f"after step {step}, whose checkpoint is written")
                if step == until:
                    break
        return state

    def _measured(self) -> list[str]:
        """Return the metrics of a step, whose share of the subject is the regulariser's."""
        return [n for n in Metrics._fields if n != "subject_share" or self.flow_weight]

    def _put_off(self, step: int, pending: list[Metrics], state: TrainState) -> None:
        """Keep a state between two lines of the journal, so that its going on leaves no trace."""
        check_steps(step, pending, self.flow_weight)
        self.journal.put_off(
            step,
            [
                {
                    name: float(value)
                    for name, value in metrics._asdict().items()
                    if value is not None
                }
                for metrics in pending
            ],
        )
        self._save(state)

    def _log(self, step: int, steps: int, pending: list[Metrics]) -> None:
        check_steps(step, pending, self.flow_weight)
        columns = zip(Metrics._fields, zip(*pending, strict=True), strict=True)
        # A step without a regulariser has no share to report.
        means = {name: float(jnp.stack(v).mean()) for name, v in columns if v[0] is not None}
        if "subject_share" in means:
            means["flow_term"] = -self.flow_weight * means["subject_share"]
        self.journal.write(step, **means, seconds=round(self.seconds, 3))
        share = means.get("subject_share", math.nan)
        self.report(
            Progress(
                step, steps, loss=means["loss"], accuracy=means["accuracy"], subject_share=share
            )
        )

    def _score(self, step: int, steps: int, state: TrainState) -> None:
        scores = accuracies(lambda tokens: self.predict(state, tokens), self.watched, self.lengths)
        values = {name: score["accuracy"] for name, score in scores.items()}
        self.journal.write(step, held_out=values, seconds=round(self.seconds, 3))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        epoch = step // self.plan.steps_per_epoch
        self.report(Progress(step, steps, f"epoch {epoch}: accuracy {shown}"))

    def _keep(self, state: TrainState) -> None:
        self._save(state)
        self.journal.told()

    def _save(self, state: TrainState) -> None:
        if not all_finite(state):
            raise InputError(
                f"parameters are no longer finite after step {int(state.step)}: training stopped, "
                "the last good checkpoint is kept; try a lower learning rate"
            )
        self.checkpoints.save(state)
