"""The training step: state in, state out, one jitted and donated function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow.errors import InputError
from jaxflow.models import AgreementEncoder, EncoderConfig, EncoderOutput
from jaxflow.models.precision import lowered
from jaxflow.models.tokenizer import CLS, PAD, UNK
from jaxflow.train.config import TrainConfig
from jaxflow.train.regulariser import subject_share

SPECIAL = (PAD, CLS, UNK)


class TrainState(NamedTuple):
    """What training carries from step to step.

    Attributes
    ----------
    step
        int32, steps taken.
    params
        The encoder's variables.
    opt_state
        The optimiser's state.
    """

    step: jax.Array
    params: Any
    opt_state: Any


class Metrics(NamedTuple):
    """What a step found, float32.

    Attributes
    ----------
    loss, accuracy
        Cross entropy, without any regulariser's term, and share of right answers.
    gradient_norm
        Of the whole loss, before clipping.
    subject_share
        Mean over the batch of `jaxflow.train.regulariser.subject_share`; None where
        ``flow_weight`` is 0.
    """

    loss: jax.Array
    accuracy: jax.Array
    gradient_norm: jax.Array
    subject_share: jax.Array | None = None


class OptimizerOptions(Protocol):
    """What a run's configuration says of its optimiser; fields as in `TrainConfig`."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> float:
        """Share of all steps."""

    @property
    def weight_decay(self) -> float:
        """Decay of the matrices."""

    @property
    def clip(self) -> float:
        """Largest global norm of a gradient."""


def make_optimizer(
    config: OptimizerOptions,
    steps: int,
    *,
    schedule: Literal["cosine", "linear"] = "cosine",
    b2: float = 0.98,
) -> optax.GradientTransformation:
    """AdamW with warm-up and decay to zero, weight decay on matrices only, norm clipped.

    Parameters
    ----------
    config
        Peak learning rate, warm-up, weight decay and clipping.
    steps
        Of the whole run.
    schedule
        How the learning rate goes down.
    b2
        Memory of Adam's second moment.
    """
    warmup = max(1, round(config.warmup * steps))
    end = max(steps, warmup + 1)
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, end)
    else:
        rate = optax.join_schedules(
            [
                optax.linear_schedule(0.0, config.learning_rate, warmup),
                optax.linear_schedule(config.learning_rate, 0.0, end - warmup),
            ],
            [warmup],
        )

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, b2=b2, weight_decay=config.weight_decay, mask=matrices),
    )


def init_state(
    model: EncoderConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Draw the first parameters from the seed."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(AgreementEncoder(model).init)(jax.random.key(seed), tokens)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def drop_words(
    rng: jax.Array,
    tokens: jax.Array,
    rate: float,
    *,
    by: int = UNK,
    special: tuple[int, ...] = SPECIAL,
) -> jax.Array:
    """Replace a share of the words by the token `by`; special tokens stay."""
    dropped = jax.random.bernoulli(rng, rate, tokens.shape)
    for number in special:
        dropped &= tokens != number
    return jnp.where(dropped, by, tokens)


def make_train_step(
    model: EncoderConfig, optimizer: optax.GradientTransformation, config: TrainConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the step ``(state, tokens [B, n], labels [B], subjects [B]) -> (state, metrics)``.

    Its random numbers come from the run's seed and the step's number alone. The subjects, places
    among the tokens, are needed only where the configuration's ``flow_weight`` is not 0; where it
    is, flow leaves no trace in the step.
    """
    encoder = AgreementEncoder(model)

    def step(
        state: TrainState, tokens: jax.Array, labels: jax.Array, subjects: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)
        word_key, dropout_key = jax.random.split(key)
        inputs = drop_words(word_key, tokens, config.word_dropout)

        def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            options: dict[str, Any] = {"train": True, "rngs": {"dropout": dropout_key}}
            # Gradients come back through the cast: in float32, of the parameters that are kept.
            params = lowered(params) if config.compute == "bfloat16" else params
            if config.flow_weight:
                output = cast(EncoderOutput, encoder.apply(params, inputs, **options))
                logits = cast(jax.Array, output.logits)
                share = subject_share(output.attention, subjects, tokens != PAD).mean()
            else:
                logits, share = _classify(encoder, params, inputs, **options), None
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            found = loss, (logits.argmax(-1) == labels).mean(), share
            return loss if share is None else loss - config.flow_weight * share, found

        gradients, (loss, accuracy, share) = jax.grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, accuracy, optax.tree.norm(gradients), share)
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def make_evaluation_step(model: EncoderConfig) -> Callable[[Any, jax.Array], jax.Array]:
    """Build ``(params, tokens [B, n]) -> probabilities [B, C]``."""
    encoder = AgreementEncoder(model)
    return jax.jit(lambda params, tokens: jax.nn.softmax(_classify(encoder, params, tokens)))


def _classify(
    encoder: AgreementEncoder, params: Any, tokens: jax.Array, **options: Any
) -> jax.Array:
    # Flax does not say what apply returns.
    return cast(jax.Array, encoder.apply(params, tokens, method="classify", **options))


def measured(flow_weight: float = 0.0) -> list[str]:
    """Return the names of what a step finds: the subject's share is the regulariser's."""
    return [name for name in Metrics._fields if name != "subject_share" or flow_weight]


def means(found: Sequence[Metrics], flow_weight: float = 0.0) -> dict[str, float]:
    """Return the mean over steps of each metric, and the regulariser's term in the loss."""
    columns = zip(Metrics._fields, zip(*found, strict=True), strict=True)
    # A step without a regulariser has no share to report.
    values = {name: float(jnp.stack(v).mean()) for name, v in columns if v[0] is not None}
    if "subject_share" in values:
        values["flow_term"] = -flow_weight * values["subject_share"]
    return values


def to_rows(found: Iterable[Metrics]) -> list[dict[str, float]]:
    """Return each step's metrics by name."""
    return [
        {name: float(value) for name, value in metrics._asdict().items() if value is not None}
        for metrics in found
    ]


def from_rows(rows: Iterable[Mapping[str, float]]) -> list[Metrics]:
    """Return what `to_rows` was given, to the bit."""
    return [Metrics(**{name: jnp.float32(value) for name, value in row.items()}) for row in rows]


# A mean cross entropy of 1e4 says that right answers are held for impossible at odds of exp(1e4).
EXPLODED = 1e4


def check_steps(last: int, found: Sequence[Metrics], flow_weight: float = 0.0) -> None:
    """Refuse to go on after a step whose loss or gradient is out of all bounds.

    Parameters
    ----------
    last
        The number of the last step, from 1.
    found
        What the steps up to that one found.
    flow_weight
        Of the regulariser's term in the loss.

    Raises
    ------
    InputError
        Naming the first such step.
    """
    if not found:
        return
    losses = np.asarray(jnp.stack([metrics.loss for metrics in found]), np.float64)
    if found[0].subject_share is not None:
        shares = [metrics.subject_share for metrics in found if metrics.subject_share is not None]
        losses = losses - flow_weight * np.asarray(jnp.stack(shares), np.float64)
    norms = np.asarray(jnp.stack([metrics.gradient_norm for metrics in found]), np.float64)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), last - len(found) + 1):
        if not math.isfinite(loss) or loss > EXPLODED:
            what = f"the loss is {loss:.6g}"
        elif not math.isfinite(norm):
            what = f"the gradient's norm is {norm:.6g}"
        else:
            continue
        raise InputError(
            f"{what} at step {step}: training stopped, the last good checkpoint is kept; try a "
            "lower learning rate"
        )
