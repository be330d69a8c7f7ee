"""Fine-tuning: a pretrained model and labelled sentences to a classifier, in one resumable run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, Model, Tokenizer, save, save_pretrained, with_head
from jaxflow.train.batches import BatchPlan, EncodedSplit, encode_sentences
from jaxflow.train.config import FineTuneConfig
from jaxflow.train.loop import Loop, Progress, say_line
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.run import open_run
from jaxflow.train.sst2 import LABEL_NAMES, Sentences
from jaxflow.train.step import Metrics, TrainState, drop_words, make_optimizer, measured

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
