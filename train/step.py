"""Build the training step of any loss: one jitted function from state to state."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from jaxflow.errors import InputError
from jaxflow.models import AgreementEncoder, EncoderConfig, EncoderOutput, Model
from jaxflow.models.model import lowered
from jaxflow.models.tokenizer import CLS, PAD, UNK
from jaxflow.train.config import FineTuneConfig, FitConfig, TrainConfig
from jaxflow.train.regulariser import subject_share

Metrics = dict[str, jax.Array]
"""float32 scalars of a step: ``loss``, ``accuracy``, ``gradient_norm`` and what else a loss has."""

Loss = Callable[..., tuple[jax.Array, Metrics]]
"""``(params, rng, **batch) -> (what is minimised, {"loss": ..., "accuracy": ...})``."""

K = TypeVar("K")

# A mean cross entropy above this stops training: right answers have a probability of exp(-1e4).
EXPLODED = 1e4

# First parts of the names of parameters below the first block.
_BELOW = ("word", "position", "token_type", "patch", "cls")


class TrainState(NamedTuple):
    """Steps taken (int32), the model's variables and the optimiser's state."""

    step: jax.Array
    params: Any
    opt_state: Any


class AverageState(NamedTuple):
    """The optimiser's moving average of the parameters, and the steps it is of."""

    steps: jax.Array
    average: Any


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step, with buffers of its own for donation."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def averaged(state: TrainState) -> Any:
    """Return the parameters to evaluate: their moving average where one is kept, else the last."""
    last = state.opt_state[-1]
    return last.average if isinstance(last, AverageState) else state.params


def make_optimizer(
    config: FitConfig,
    steps: int,
    *,
    schedule: Literal["cosine", "linear"] = "cosine",
    b2: float = 0.98,
) -> optax.GradientTransformation:
    """Return AdamW with warm-up and decay to zero, weight decay on matrices only, norm clipped.

    Parameters
    ----------
    config
        Peak learning rate, warm-up, weight decay and clipping.
    steps
        Of the whole run.
    schedule
        How the learning rate falls after the warm-up.
    b2
        Decay rate of Adam's second moment.
    """
    warmup, peak = max(1, round(config.warmup * steps)), config.learning_rate
    end = max(steps, warmup + 1)
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, end)
    else:
        up, down = (
            optax.linear_schedule(0.0, peak, warmup),
            optax.linear_schedule(peak, 0.0, end - warmup),
        )
        rate = optax.join_schedules([up, down], [warmup])

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, b2=b2, weight_decay=config.weight_decay, mask=matrices),
    )


def make_finetune_optimizer(
    config: FineTuneConfig, model: Model, steps: int
) -> optax.GradientTransformation:
    """Return AdamW with a learning rate for each layer, and a moving average of the parameters."""
    parts = [make_optimizer(config, steps, schedule=config.schedule, b2=0.999)]
    if config.layer_decay < 1:
        block = model.config.block
        scales = rate_scales(
            model.params, block.layers, config.layer_decay, norm_first=block.norm_first
        )
        scale = optax.stateless(
            lambda updates, _: jax.tree.map(lambda update, by: update * by, updates, scales)
        )
        parts.append(scale)
    if config.average:
        parts.append(_average(config.average))
    return optax.chain(*parts)


def rate_scales(params: Any, layers: int, decay: float, *, norm_first: bool) -> Any:
    """Return the factor of each parameter's learning rate: ``decay ** (layers - l)`` in block l.

    It is 1 above the blocks and ``decay ** (layers + 1)`` below them; the norm outside them is
    above in a model with `norm_first` (pre-LayerNorm).
    """

    def scale(path: tuple[Any, ...], _: Any) -> float:
        name = str(path[1].key)  # path[0] is "params"
        if name.startswith("blocks_"):
            return decay ** (layers - int(name.removeprefix("blocks_")))
        if name in _BELOW or (name == "norm" and not norm_first):
            return decay ** (layers + 1)
        return 1.0

    return jax.tree_util.tree_map_with_path(scale, params)


def _average(decay: float) -> optax.GradientTransformation:
    """Keep a moving average of the parameters; the updates pass through."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        # A fast decay at first: the fresh head's first values should soon be forgotten.
        share = 1 - jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        average = jax.tree.map(
            lambda old, leaf, change: old + share * (leaf + change - old),
            state.average,
            params,
            updates,
        )
        return updates, AverageState(state.steps + 1, average)

    return optax.GradientTransformation(init, update)


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, seed: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the jitted training step ``(state, **batch) -> (state, metrics)`` of a loss.

    Its random numbers come from the seed and the step's number alone; the state is donated.
    """

    def step(state: TrainState, **batch: jax.Array) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed + 1), state.step)
        gradients, metrics = jax.grad(lambda params: loss(params, rng, **batch), has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


@contextmanager
def compiling(
    program: Any, examples: Mapping[K, tuple[Any, ...]]
) -> Iterator[dict[K, Future[Any]]]:
    """Compile a jitted function for each example of its arguments, several at a time.

    The last argument is a dictionary of those by name. Once a result is there, a call like its
    example compiles nothing. What is not begun when the block ends is left to the first call.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {
            key: pool.submit(_compile, program, *given, **named)
            for key, (*given, named) in examples.items()
        }
    finally:
        pool.shutdown(cancel_futures=True)


def _compile(program: Any, *given: Any, **named: Any) -> None:
    program.lower(*given, **named).compile()


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Metrics]:
    """Return the mean cross entropy of logits ``[B, C]`` and labels ``[B]``, with its metrics."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}


def drop_words(
    rng: jax.Array,
    tokens: jax.Array,
    rate: float,
    *,
    by: int = UNK,
    special: tuple[int, ...] = (PAD, CLS, UNK),
) -> jax.Array:
    """Replace a share of the words by the token `by`; special tokens stay."""
    dropped = jax.random.bernoulli(rng, rate, tokens.shape)
    for number in special:
        dropped &= tokens != number
    return jnp.where(dropped, by, tokens)


def agreement_loss(model: EncoderConfig, config: TrainConfig) -> Loss:
    """Return the loss of an agreement encoder on ``tokens [B, n]`` and ``labels [B]``.

    With a ``flow_weight`` also ``subjects [B]``, places among the tokens, are needed, and the
    subject's share of the flow to ``[CLS]`` is raised (`jaxflow.train.regulariser`); without one
    flow leaves no trace in the step.
    """
    encoder = AgreementEncoder(model)

    def loss(
        params: Any,
        rng: jax.Array,
        tokens: jax.Array,
        labels: jax.Array,
        subjects: jax.Array | None = None,
    ) -> tuple[jax.Array, Metrics]:
        word_rng, dropout_rng = jax.random.split(rng)
        inputs = drop_words(word_rng, tokens, config.word_dropout)
        options: dict[str, Any] = {"train": True, "rngs": {"dropout": dropout_rng}}
        # Gradients come back through the cast: in float32, of the parameters that are kept.
        params = lowered(params) if config.compute == "bfloat16" else params
        if not config.flow_weight:
            logits = encoder.apply(params, inputs, method="classify", **options)
            return cross_entropy(cast(jax.Array, logits), labels)
        output = cast(EncoderOutput, encoder.apply(params, inputs, **options))
        share = subject_share(output.attention, subjects, tokens != PAD).mean()
        value, metrics = cross_entropy(cast(jax.Array, output.logits), labels)
        term = -config.flow_weight * share
        return value + term, {**metrics, "subject_share": share, "flow_term": term}

    return loss


def finetune_loss(model: Model, config: FineTuneConfig) -> Loss:
    """Return the loss of a classifier of text on ``tokens [B, n]`` and ``labels [B]``."""
    apply: Callable[..., Any] = model.module.apply
    text = model.text
    special = (text.pad_id, text.cls_id, text.sep_id, text.mask_id, text.unk_id)
    by = next((number for number in (text.mask_id, text.unk_id) if number is not None), 0)
    kept = tuple(number for number in special if number is not None)

    def loss(
        params: Any, rng: jax.Array, tokens: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        word_rng, dropout_rng = jax.random.split(rng)
        if config.word_dropout:
            tokens = drop_words(word_rng, tokens, config.word_dropout, by=by, special=kept)
        rngs = {"dropout": dropout_rng}
        return cross_entropy(
            apply(params, tokens, train=True, rngs=rngs, method="classify"), labels
        )

    return loss


def means(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over steps of each metric, the loss first."""
    first = ("loss", "accuracy", "gradient_norm")
    names = [*first, *(name for name in found[0] if name not in first)]
    return {name: float(jnp.stack([step[name] for step in found]).mean()) for name in names}


def to_rows(found: Sequence[Metrics]) -> list[dict[str, float]]:
    """Return each step's metrics as plain numbers."""
    return [{name: float(value) for name, value in step.items()} for step in jax.device_get(found)]


def from_rows(rows: Sequence[Mapping[str, float]]) -> list[Metrics]:
    """Return what `to_rows` was given, to the bit."""
    return [{name: jnp.float32(value) for name, value in row.items()} for row in rows]


def check_steps(last: int, found: Sequence[Metrics]) -> None:
    """Raise an error after a step whose loss or gradient is not finite or too large.

    `found` are the metrics of the steps up to number `last`, which counts from 1.
    """
    shown = {"gradient_norm": "gradient's norm", "subject_share": "subject's share"}
    rows = to_rows(found)
    for step, row in enumerate(rows, last - len(rows) + 1):
        for name in sorted(row, key=lambda name: name != "loss"):
            if not math.isfinite(row[name]) or (name == "loss" and row[name] > EXPLODED):
                raise InputError(
                    f"the {shown.get(name, name)} is {row[name]:.6g} at step {step}: training "
                    "stopped, the last good checkpoint is kept; try a lower learning rate"
                )
