"""The fine-tuning step: a pretrained model's parameters, nudged layer by layer and averaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow.models import Model, Tokenizer
from jaxflow.train.finetune_config import FineTuneConfig
from jaxflow.train.step import Metrics, TrainState, drop_words, make_optimizer

__all__ = [
    "averaged",
    "checksum",
    "make_finetune_optimizer",
    "make_finetune_step",
    "rate_scales",
    "start_state",
]

# First parts of the names of parameters: what lies below the first block, what above the last.
_BELOW = ("word", "position", "token_type", "patch", "cls")
_ABOVE = ("pooler", "readout")


class AverageState(NamedTuple):
    """The optimiser's memory of the parameters: steps taken, and their moving average."""

    steps: jax.Array
    average: Any


def rate_scales(params: Any, layers: int, decay: float, *, norm_first: bool) -> Any:
    """Return each parameter's share of the learning rate, a tree of numbers.

    Parameters
    ----------
    params
        A model's variables.
    layers
        Blocks of the model.
    decay
        Share that a layer has of the rate of the layer above.
    norm_first
        Whether the norm outside the blocks comes after them (pre-LayerNorm), not before.

    Returns
    -------
    Any
        1 at what is read off the top block, ``decay ** (layers - l)`` in block l (from 0), and
        ``decay ** (layers + 1)`` at the embeddings.
    """

    def scale(path: tuple[Any, ...], _: Any) -> float:
        name = str(path[1].key)  # path[0] is "params"
        if name.startswith("blocks_"):
            return decay ** (layers - int(name.removeprefix("blocks_")))
        if name in _BELOW or (name == "norm" and not norm_first):
            return decay ** (layers + 1)
        return 1.0

    return jax.tree_util.tree_map_with_path(scale, params)


def _average(memory: float) -> optax.GradientTransformation:
    """Follow the parameters with a moving average; the updates pass through."""

    def begin(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def follow(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        # A short memory at first: the fresh head's first values should soon be forgotten.
        share = 1 - jnp.minimum(memory, (1 + state.steps) / (10 + state.steps))
        average = jax.tree.map(
            lambda old, leaf, update: old + share * (leaf + update - old),
            state.average,
            params,
            updates,
        )
        return updates, AverageState(state.steps + 1, average)

    return optax.GradientTransformation(begin, follow)


def make_finetune_optimizer(
    config: FineTuneConfig, model: Model, steps: int
) -> optax.GradientTransformation:
    """AdamW with a learning rate for each layer, and a moving average of the parameters."""
    parts = [make_optimizer(config, steps, schedule=config.schedule, b2=0.999)]
    if config.layer_decay < 1:
        block = model.config.block
        scales = rate_scales(
            model.params, block.layers, config.layer_decay, norm_first=block.norm_first
        )
        parts.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(
                    lambda update, scale: update * scale, updates, scales
                )
            )
        )
    if config.average:
        parts.append(_average(config.average))
    return optax.chain(*parts)


def averaged(state: TrainState) -> Any:
    """Return the parameters to evaluate: the average where one is kept, else the last ones."""
    last = state.opt_state[-1]
    # Restored from a checkpoint it is the same record.
    return last.average if isinstance(last, AverageState) else state.params


def start_state(model: Model, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step, with buffers of its own for donation."""
    params = jax.tree.map(jnp.array, model.params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_finetune_step(
    model: Model, optimizer: optax.GradientTransformation, config: FineTuneConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the step ``(state, tokens [B, n], labels [B]) -> (state, metrics)``.

    Its random numbers come from the run's seed and the step's number alone.
    """
    apply: Callable[..., Any] = model.module.apply  # Flax does not say what it returns
    special, by = _special(model.text)

    def step(state: TrainState, tokens: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)
        word_key, dropout_key = jax.random.split(key)
        inputs = tokens
        if config.word_dropout:
            inputs = drop_words(word_key, tokens, config.word_dropout, by=by, special=special)

        def loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = apply(
                params, inputs, train=True, rngs={"dropout": dropout_key}, method="classify"
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits.argmax(-1) == labels).mean()

        (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, accuracy, optax.tree.norm(gradients))
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def _special(tokenizer: Tokenizer) -> tuple[tuple[int, ...], int]:
    """Return the tokens that are never dropped, and the one that stands for a dropped one."""
    names = ("pad_id", "cls_id", "sep_id", "mask_id", "unk_id")
    known = {name: getattr(tokenizer, name) for name in names}
    special = tuple(number for number in known.values() if number is not None)
    by = known["mask_id"] if known["mask_id"] is not None else known["unk_id"]
    return special, 0 if by is None else by


def checksum(params: Any, tokens: np.ndarray, labels: np.ndarray) -> str:
    """Return a checksum of parameters and training rows, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    for rows in (tokens, labels):
        digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]
