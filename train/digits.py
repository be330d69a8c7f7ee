"""A small Vision Transformer trained on scikit-learn's digits, in a minute or two on two cores.

The images are few and small enough to train on and explain anywhere, and large enough for
attributions to be checked against occlusion.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models import Model, ViTConfig, init, load, save_pretrained
from jaxflow.train.checkpoint import all_finite
from jaxflow.train.config import TrainConfig
from jaxflow.train.digits_data import CLASSES, SIDE, Images, load_digits, normalised
from jaxflow.train.digits_step import digits_loss, widened
from jaxflow.train.lock import hold
from jaxflow.train.loop import Progress
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.run import write_json
from jaxflow.train.step import TrainState, make_optimizer, make_step

__all__ = ["DigitsConfig", "DigitsResult", "digits_run", "finished_digits", "train_digits"]

_EVALUATED = 180  # images classified at once


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
    """A training run's configuration; about a minute on two cores, test accuracy about .98.

    Attributes
    ----------
    seed
        Of the parameters, the images' order, the shifts and dropout.
    epochs, batch
        Passes over the training images; images a step.
    learning_rate, warmup, weight_decay, clip
        As in `jaxflow.train.config.TrainConfig`.
    shift
        Training images are moved by up to so many pixels in each direction.
    dropout
        Rate inside the model.
    patch, layers, heads, width, readout
        Of the model.
    """

    seed: int = 0
    epochs: int = 100
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    clip: float = 1.0
    shift: int = 1
    dropout: float = 0.05
    patch: int = 2
    layers: int = 4
    heads: int = 4
    width: int = 64
    readout: Literal["cls", "mean"] = "cls"

    def __post_init__(self) -> None:
        if self.patch not in (1, 2, 4):
            raise InputError(f"patch must be 1, 2 or 4 of the digits' 8 pixels, got {self.patch}")
        if not 0 <= self.shift < SIDE:
            raise InputError(f"shift must be from 0 to {SIDE - 1} pixels, got {self.shift}")
        self.optimisation()  # checks what the two have in common
        self.model()

    def optimisation(self) -> TrainConfig:
        """Return the part that any training run has."""
        return TrainConfig(
            seed=self.seed,
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            dropout=self.dropout,
        )

    def model(self, mean: float = 0.5, std: float = 0.5) -> ViTConfig:
        """Return the model's configuration, given the training pixels' mean and deviation."""
        return ViTConfig(
            image=(SIDE, SIDE),
            patch=self.patch,
            channels=1,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            hidden_width=4 * self.width,
            labels=tuple(str(digit) for digit in range(CLASSES)),
            dropout=self.dropout,
            attention_dropout=self.dropout,
            readout=self.readout,
            mean=(round(mean, 4),),
            std=(round(std, 4),),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsResult:
    """A finished run: the model, accuracy by split (``accuracy``, ``n``), seconds of training."""

    model: Model
    accuracy: dict[str, dict[str, float | int]]
    seconds: float


def digits_run(
    config: DigitsConfig, run: Path, report: Callable[[Progress], None] = lambda progress: None
) -> DigitsResult:
    """Train into a folder, or return the finished run that is there.

    Parameters
    ----------
    config
        The run's configuration.
    run
        Gets ``model/`` (readable by `jaxflow.models.load` and by ``transformers``) and, as the
        last, ``run.json`` with configuration, accuracy and seconds. A run that was cut off before
        is begun again.
    report
        Called with the progress after every epoch.

    Raises
    ------
    InputError
        As `train_digits` does; if the folder holds a run with another configuration, another
        process has it, or it cannot be read or written.
    """
    finished = finished_digits(config, run)
    if finished is not None:
        return finished
    with hold(run):
        result = train_digits(config, report)
        save_pretrained(run / "model", result.model)
        record = {
            "config": dataclasses.asdict(config),
            "accuracy": result.accuracy,
            "seconds": result.seconds,
        }
        write_json(run / "run.json", record)
    return result


def finished_digits(config: DigitsConfig, run: Path) -> DigitsResult | None:
    """Return the finished run in a folder, or None where there is none.

    Raises
    ------
    InputError
        If it has another configuration, or cannot be read.
    """
    path = run / "run.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs, accuracy, seconds = found["config"], found["accuracy"], found["seconds"]
        changed = [
            f"{name} is {theirs[name]!r}, not {value!r}"
            for name, value in dataclasses.asdict(config).items()
            if theirs[name] != value or isinstance(theirs[name], bool)
        ]
        for score in accuracy.values():
            if type(score["n"]) is not int or not 0 <= score["accuracy"] <= 1:
                raise ValueError(f"an accuracy of {score['accuracy']!r} of {score['n']!r}")
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
            raise ValueError(f"it took {seconds!r} seconds")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"the run's record {path} cannot be read: {error}") from error
    if changed:
        raise InputError(
            f"{run} holds a run with another configuration ({', '.join(changed)}): choose "
            "another folder"
        )
    return DigitsResult(load(run / "model"), accuracy, seconds)


def train_digits(
    config: DigitsConfig,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    layout: Layout | None = None,
) -> DigitsResult:
    """Train a model; the same configuration gives the same parameters.

    Parameters
    ----------
    config
        The run's configuration.
    report
        Called with the progress after every epoch.
    layout
        The devices to train on, as in `jaxflow.train.loop.train`.

    Returns
    -------
    DigitsResult
        The model after the last epoch with its accuracy on the held-out splits: ``val``, by which
        the default configuration was chosen, and ``test``.

    Raises
    ------
    InputError
        If scikit-learn is missing, a batch has more images than there are or is not divided by the
        devices, or the loss stops being finite.
    """
    layout = layout_of() if layout is None else layout
    layout.check_batch(config.batch)
    splits = load_digits()
    train = splits["train"]
    if config.batch > len(train.labels):
        raise InputError(f"batch must be at most {len(train.labels)} images, got {config.batch}")
    per_epoch = len(train.labels) // config.batch
    steps = config.epochs * per_epoch
    sizes = config.model(float(train.grey.mean()), float(train.grey.std()))
    optimizer = make_optimizer(config.optimisation(), steps)
    params = widened(init(sizes, config.seed))
    state = layout.put_state(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)))
    step_function = layout.step(make_step(digits_loss(sizes, config.shift), optimizer, config.seed))

    own = layout.rows(config.batch)
    begun = time.monotonic()
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(train.labels))
        found = []
        for rows in order[: per_epoch * config.batch].reshape(per_epoch, config.batch)[:, own]:
            state, metrics = step_function(state, grey=train.grey[rows], labels=train.labels[rows])
            found.append(jnp.stack([metrics["loss"], metrics["accuracy"]]))
        values = np.asarray(jnp.stack(found))
        loss, accuracy = values.mean(0).tolist()
        done = (epoch + 1) * per_epoch
        if not math.isfinite(loss):
            first = int(np.flatnonzero(~np.isfinite(values[:, 0]))[0])
            raise InputError(
                f"the loss is {values[first, 0]} at step {epoch * per_epoch + first + 1}: training "
                "stopped; try a lower learning rate"
            )
        if not all_finite(state):
            raise InputError(
                f"parameters are no longer finite after step {done}: training stopped; try a lower "
                "learning rate"
            )
        report(Progress(done, steps, loss=loss, accuracy=accuracy))
    seconds = time.monotonic() - begun
    model = Model(sizes, layout.whole(state.params), None)
    return DigitsResult(
        model, {name: _accuracy(model, sizes, splits[name]) for name in ("val", "test")}, seconds
    )


def _accuracy(model: Model, vit: ViTConfig, images: Images) -> dict[str, float | int]:
    pixels = normalised(images.grey, vit)
    parts = [
        np.asarray(model.probabilities(pixels[start : start + _EVALUATED]))
        for start in range(0, len(images.labels), _EVALUATED)
    ]
    right = np.concatenate(parts).argmax(-1) == images.labels
    return {"accuracy": float(right.mean()), "n": len(right)}
