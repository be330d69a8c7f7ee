"""The training step: state in, state out, one jitted and donated function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import optax

from jaxflow.models import AgreementEncoder, EncoderConfig, EncoderOutput
from jaxflow.models.precision import lowered
from jaxflow.models.tokenizer import CLS, PAD, UNK
from jaxflow.train.config import TrainConfig
from jaxflow.train.regulariser import subject_share

__all__ = [
    "Metrics",
    "TrainState",
    "init_state",
    "make_evaluation_step",
    "make_optimizer",
    "make_train_step",
]

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
