"""Train models on tasks whose relevant tokens are known, and verify that the models use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.models import EncoderConfig, Model, init
from jaxflow.train.config import FitConfig
from jaxflow.train.loop import Report, TrainResult, fit, ignore
from jaxflow.train.step import cross_entropy
from jaxflow.train.tasks import Sequences, Task


@dataclasses.dataclass(frozen=True)
class TaskBatches:
    """Training batches of a task: new sequences in every step, the easier ones first."""

    task: Task
    batch: int
    steps: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """All of them: nothing comes twice."""
        return self.steps

    def __len__(self) -> int:
        return self.steps

    def part(self, step: int, part: slice) -> dict[str, np.ndarray]:
        """Return some rows of a step's batch."""
        found = self.task.batch(self.batch, self.seed, step, step / self.steps)
        return {"tokens": found.tokens[part], "labels": found.labels[part]}


@dataclasses.dataclass(frozen=True, eq=False)
class Verified:
    """Whether a model uses the tokens that are said to be relevant, and no others.

    Attributes
    ----------
    sequences
        Those tested.
    right
        ``[N]`` bool, whether the model's class is the right one.
    kept
        ``[N]``, the share of redraws of all irrelevant tokens that left the model's class alone.
    changed
        ``[N]``, the share of redraws of the relevant tokens to another class which the model's
        class followed; NaN where no redraw had another class.
    """

    sequences: Sequences
    right: np.ndarray
    kept: np.ndarray
    changed: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """``[N]`` bool: right, and no redraw went against the truth."""
        return self.right & (self.kept == 1) & ~(self.changed < 1)


def verify(
    predict: Callable[[np.ndarray], Any], task: Task, size: int, seed: int = 0, *, times: int = 4
) -> Verified:
    """Draw test sequences, and test on each what the model's class depends on.

    Parameters
    ----------
    predict
        Takes tokens ``[B, n]`` and returns logits or probabilities ``[B, C]``.
    task, size, seed
        As `Task.draw` has them.
    times
        Redraws of each part.

    Returns
    -------
    Verified
        The sequences with what was found of each.
    """

    def classes(tokens: np.ndarray) -> np.ndarray:
        parts = np.array_split(tokens, max(1, -(-len(tokens) // 500)))
        return np.concatenate([np.asarray(predict(part)).argmax(-1) for part in parts])

    first = task.draw(size, seed)
    own = classes(first.tokens)
    kept, changed, differs = np.zeros(size), np.zeros(size), np.zeros(size)
    for time in range(1, times + 1):
        other = task.draw(size, seed, again="irrelevant", time=time)
        kept += classes(other.tokens) == own
        new = task.draw(size, seed, again="relevant", time=time)
        moved = new.labels != first.labels
        changed += moved & (classes(new.tokens) == new.labels)
        differs += moved
    with np.errstate(invalid="ignore"):
        return Verified(first, own == first.labels, kept / times, changed / differs)


def fit_task(
    task: Task,
    config: FitConfig,
    run: Path,
    *,
    steps: int = 4000,
    report: Report = ignore,
    **sizes: Any,
) -> TrainResult:
    """Train an encoder on a task into a run's folder, or resume the run there.

    Parameters
    ----------
    task
        The task; its ``seed`` of training sequences is that of `config`.
    config
        ``epochs`` must be 1, since no sequence comes twice.
    run, report
        As `jaxflow.train.fit` has them.
    steps
        Batches of new sequences.
    **sizes
        Of the `jaxflow.models.EncoderConfig`, by default 4 layers, 4 heads, width 64, no dropout;
        ``causal=True`` for a decoder.

    Returns
    -------
    TrainResult
        The model, and its accuracy on 2,000 sequences that it was not trained on.
    """
    defaults: dict[str, Any] = {"layers": 4, "heads": 4, "width": 64, "dropout": 0.0}
    encoder = EncoderConfig(
        vocabulary=len(task.tokenizer), positions=task.length, classes=task.classes,
        **(defaults | sizes),
    )  # fmt: skip
    model = Model(encoder, _fresh(encoder, config.seed), task.tokenizer)
    apply: Callable[..., Any] = model.module.apply

    def loss(params: Any, rng: jax.Array, tokens: jax.Array, labels: jax.Array) -> Any:
        options: dict[str, Any] = {"train": True, "rngs": {"dropout": rng}}
        return cross_entropy(apply(params, tokens, method="classify", **options), labels)

    def score(predict: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
        test = task.draw(2000, config.seed)
        right = np.asarray(predict(test.tokens)).argmax(-1) == test.labels
        return {"test": {"accuracy": float(right.mean()), "n": len(right)}}

    batches = TaskBatches(task, config.batch, steps, config.seed)
    return fit(model, batches, config, run, loss=loss, score=score, report=report)


def _fresh(config: EncoderConfig, seed: int) -> Any:
    """Draw parameters that a small model learns from quickly: each layer keeps its input's scale.

    Positions begin as sines and cosines, so that "the token before" is one rotation.
    """
    half = config.width // 2
    angles = np.arange(config.positions)[:, None] / 20.0 ** (np.arange(half) / half)
    waves = 0.3 * np.concatenate([np.sin(angles), np.cos(angles)], -1)

    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        match path[-1].key:
            case "position":
                return jnp.asarray(waves, jnp.float32)
            case "embedding":
                return 15 * leaf
            case "kernel" if leaf.ndim == 2:
                return leaf * (len(leaf) ** -0.5 / 0.02)
        return leaf

    return jax.tree.map_with_path(scaled, init(config, seed))
