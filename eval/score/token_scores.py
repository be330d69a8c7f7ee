"""What each method says of every token: the model's part on its devices, flow on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper.protocol import ProtocolConfig, Score
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.eval.score.readout import flow_at, read_places, rows_at, saturated_at
from jaxflow.models import Model
from jaxflow.train.batches import Batch, EncodedSplit, evaluation_batches
from jaxflow.train.mesh import Layout, layout_of

__all__ = ["TokenScores", "device_scores", "gradient_scores", "token_scores"]

# Rows, their batch, and what the device may still be at.
_Begun = tuple[np.ndarray, Batch, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """What every method says of S sentences of up to n tokens, NaN where there is no token.

    Attributes
    ----------
    methods
        Row of the tables -> float64 ``[S, L, n]``, of the ``[CLS]`` row or the maximum over rows.
    targets
        What they are compared with (`TARGETS`) -> float64 ``[S, n]``.
    saturated
        bool ``[S, L, n]``: flow is at its bound.
    counted
        bool ``[S, n]``: the tokens that are correlated.
    """

    methods: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    saturated: np.ndarray
    counted: np.ndarray


def gradient_scores(
    model: Model, of: Score = "difference"
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    r"""Build the jitted ``(params, tokens [B, n]) -> scores [B, n]`` by two readings of a gradient.

    With g the gradient of a score, by default ``p₀ − p₁``, at a token's embedding, ``gradient`` is
    the paper's ``|Σ_d g_d|`` and ``gradient_norm`` is ``‖g‖₂``.
    """
    apply: Callable[..., Any] = model.module.apply  # Flax does not say what it returns
    padding = model.config.pad_id  # type: ignore[union-attr]

    @jax.jit
    def scores(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        def score(embeddings: jax.Array) -> jax.Array:
            logits = apply(params, embeddings, tokens != padding, method="encode").logits
            if of == "predicted":
                return jnp.asarray(logits.max(-1))
            if of == "last":
                return jnp.asarray(logits[:, -1])
            probabilities = jax.nn.softmax(logits)
            return probabilities[:, 0] - probabilities[:, 1]

        embeddings = apply(params, tokens, method="embed")
        # The compiler merges the two backward passes into one.
        return {
            "gradient": jnp.abs(jaxflow.input_gradient(score, embeddings)),
            "gradient_norm": jnp.asarray(jaxflow.gradient_norm(score, embeddings)),
        }

    return scores


def device_scores(
    model: Model,
    residual: float,
    *,
    of: Score = "difference",
    reading: Literal["readout", "maximum"] = "readout",
) -> Callable[..., dict[str, jax.Array]]:
    """Build all that runs on the device, as one function to compile once for each length.

    It maps ``(params, tokens [B, n], labels [B])`` to the attention, what is read of raw attention
    and rollout ``[B, L, n]``, and the references' scores ``[B, n]``.
    """
    apply: Callable[..., Any] = model.module.apply
    gradients = gradient_scores(model, of)
    padding, blank = model.config.pad_id, _blank(model)  # type: ignore[union-attr]

    def read(rows: Any, mask: jax.Array) -> jax.Array:
        # Rows of padding are 0, so that they are never the largest.
        places = read_places(model, mask)
        return rows_at(rows, places) if reading == "readout" else jnp.asarray(rows.max(2))

    @jax.jit
    def scores(params: Any, tokens: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        mask = jnp.asarray(tokens != padding)
        attention = apply(params, tokens, mask).attention
        blanked = jaxflow.blank_out(
            lambda rows: jax.nn.softmax(apply(params, rows, method="classify")),
            tokens,
            blank,
            label=labels,
            mask=mask,
        )
        return {
            "attention": attention,
            "raw": read(jaxflow.raw_attention(attention, mask=mask), mask),
            "rollout": read(jaxflow.rollout(attention, residual=residual, mask=mask), mask),
            "blank_out": jnp.asarray(blanked),
            **gradients(params, tokens),
        }

    return scores


def _one_ahead(work: Iterator[_Begun]) -> Iterator[_Begun]:
    """Yield what the device was given, having given it the next: both then work at once."""
    before = next(work, None)
    while before is not None:
        begun = next(work, None)
        yield before
        before = begun


def _blank(model: Model) -> int:
    """Return the token that stands for a blanked one: a tokenizer's ``[UNK]``, or its ``[MASK]``.

    Word pieces leave next to nothing unknown, so that a pretrained model has never seen ``[UNK]``,
    while ``[MASK]`` is what it was trained to see where a word is missing.
    """
    tokenizer = model.text
    blank = tokenizer.unk_id if tokenizer.mask_id is None else tokenizer.mask_id
    if blank is None:
        raise InputError("the model's tokenizer must have [MASK] or [UNK] to blank a token out")
    return blank


def _flow(
    attention: np.ndarray, places: np.ndarray, reading: str, options: dict[str, Any]
) -> np.ndarray:
    """Return what is read of flow, ``[B, L, n]``."""
    if reading == "readout":
        return flow_at(attention, places, **options)
    flows = np.asarray(jaxflow.flow(attention, **options))
    total = flows.sum(-1, keepdims=True)
    return np.asarray((flows / np.where(total > 0, total, 1)).max(2))


def token_scores(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    layout: Layout | None = None,
    programs: Callable[..., dict[str, jax.Array]] | None = None,
    longest: int | None = None,
) -> TokenScores:
    """Score every token of every sentence by every method.

    Parameters
    ----------
    model, split, lengths
        The model, the sentences, and the lengths they are padded to.
    config
        How they are scored.
    report
        Called with the number of sentences done and their total.
    layout
        The devices that the model's part runs on, each with its rows of every batch; None takes all
        that this process has. Flow is computed on the host.
    programs
        What `device_scores` gives, to be compiled once for several splits.
    longest
        Tokens that the result has room for; None takes the longest sentence's.
    """
    layout = layout_of(own=True) if layout is None else layout
    params = layout.put_state(model.params)
    longest = int(split.lengths.max()) if longest is None else longest
    shape = (len(split), model.config.layers, longest)
    methods = {name: np.full(shape, np.nan) for name in ROWS}
    targets = {name: np.full(shape[::2], np.nan) for name in TARGETS}
    saturated = np.zeros(shape, bool)
    counted = np.zeros(shape[::2], bool)
    on_device = programs or device_scores(
        model, config.residual, of=config.score, reading=config.reading
    )
    ends = (model.text.cls_id, model.text.sep_id)
    specials = [number for number in ends if number is not None]

    done = 0
    batches = evaluation_batches(split, lengths, config.batch)
    work = ((*each, on_device(params, **layout.put_filled(each[1]))) for each in batches)
    for rows, batch, found in _one_ahead(work):
        now = jax.tree.map(np.asarray, found)
        # Of the whole batch: each number of rows that JAX sees costs a program that stays.
        places = np.asarray(read_places(model, batch["tokens"] != split.pad_id))[: len(rows)]
        # A batch may end in rows of padding, which belong to no sentence.
        now = {name: values[: len(rows)] for name, values in now.items()}
        attention, mask = now.pop("attention"), batch["tokens"][: len(rows)] != split.pad_id
        options = {"residual": config.residual, "mask": mask, "threads": config.threads}
        now["flow"] = _flow(attention, places, config.reading, options)
        # The bound is of the lowest layer alone: no source has a say in it.
        bound = jaxflow.saturation(attention, sources=0, layers=0, **options).bound
        now["column_sum"] = np.broadcast_to(bound[:, None], now["flow"].shape)
        reached = saturated_at(attention, places, **options)
        for place, row in enumerate(rows):
            n = int(split.lengths[row])
            for name, values in now.items():
                into = (methods if name in methods else targets)[name]
                into[row, ..., :n] = values[place, ..., :n]
            saturated[row, :, :n] = reached[place, :, :n]
            # Drawn by sentence, so that neither the batch nor the other sentences matter.
            rng = np.random.default_rng([config.seed, int(split.rows[row])])
            methods["random"][row, :, :n] = rng.random((shape[1], n))
            methods["position"][row, :, :n] = np.arange(n)
            special = np.isin(split.tokens[row, :n], specials)
            counted[row, :n] = config.special_tokens | ~special
        done += len(rows)
        report(done, len(split))
    return TokenScores(methods, targets, saturated, counted)
