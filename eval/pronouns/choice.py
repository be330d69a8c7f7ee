"""What a masked language model makes of a pronoun's place: its own choice, and what attention says.

The model's choice between two referents is read off the probabilities of the pronouns that mean
them; raw attention, rollout and flow say how much of each referent reaches the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.attention import edge_weights
from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import Schema
from jaxflow.eval.pronouns.tokens import Placed, place

__all__ = ["METHODS", "Case", "measure"]

METHODS = ("raw", "rollout", "flow")

BATCH = 16  # sentences encoded at once; every batch has the same shape and is compiled once


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """What a model of L layers makes of one sentence. Pairs follow the order of the referents.

    Attributes
    ----------
    schema
        The sentence.
    tokens
        Its n tokens as the model sees them.
    pieces
        How many of them each referent has.
    log_probabilities
        Of the two fillers at the mask, among all words.
    weights
        Method -> float64 ``[L, 2]``: what of each referent reaches the mask, word pieces summed.
    column_sums
        ``[2]``: what each referent sends to all tokens in the lowest layer, ``Σ A[1][:, t]`` summed
        over its word pieces. It bounds flow, and does not depend on the mask.
    distances
        Tokens from the mask to each referent's nearest word piece.
    """

    schema: Schema
    tokens: tuple[str, ...]
    pieces: tuple[int, int]
    log_probabilities: tuple[float, float]
    weights: Mapping[str, NDArray[np.float64]]
    column_sums: NDArray[np.float64]
    distances: tuple[int, int]

    @property
    def probabilities(self) -> tuple[float, float]:
        """The fillers' probabilities among all words; they need not sum to 1."""
        first, second = np.exp(self.log_probabilities)
        return float(first), float(second)

    @property
    def log_odds(self) -> float:
        """By how much the model prefers the first referent, in natural logarithms."""
        return self.log_probabilities[0] - self.log_probabilities[1]


def measure(
    model: Any,
    schemas: Sequence[Schema],
    *,
    residual: float = 0.5,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Case, ...]:
    """Ask a model about the pronoun of every sentence, and follow its attention from there.

    Parameters
    ----------
    model
        A masked language model of `jaxflow.models`.
    schemas
        The sentences.
    residual
        Share of the residual connection in rollout and flow.
    threads
        Threads for flow; None takes all cores.
    report
        Called with the number of sentences done and their total.

    Raises
    ------
    InputError
        If the model is none that predicts masked words, or a sentence does not fit it.
    """
    head = getattr(model.config, "head", None)
    if head != "masked-lm" or model.text.mask_id is None:
        raise InputError(
            "model must be a masked language model, such as bert-base-uncased, got one "
            + (f"with the head {head!r}" if head != "masked-lm" else "without a mask token")
        )
    placed = [place(model.text, schema) for schema in schemas]
    for schema, each in zip(schemas, placed, strict=True):
        if len(each.ids) > model.config.positions:
            raise InputError(
                f"{schema.where}: the sentence must be at most {model.config.positions} tokens for "
                f"this model, got {len(each.ids)}"
            )
    longest = max((len(each.ids) for each in placed), default=0)
    cases: list[Case] = []
    for start in range(0, len(placed), BATCH):
        part = placed[start : start + BATCH]
        found = _measure(model, part, longest, residual, threads)
        for schema, each, values in zip(schemas[start:], part, found, strict=False):
            tokens = tuple(model.text.decode(each.ids))
            cases.append(_case(schema, each, tokens, values))
        report(len(cases), len(placed))
    return tuple(cases)


def _measure(
    model: Any, placed: Sequence[Placed], n: int, residual: float, threads: int | None
) -> list[dict[str, NDArray[np.float64]]]:
    """Return the masks' log-probabilities, rows of every method, and column sums, by sentence."""
    # The last batch is filled up with its first sentence, so that it needs no program of its own.
    rows = [*placed, *[placed[0]] * (BATCH - len(placed))]
    tokens = np.full((BATCH, n), model.text.pad_id or 0, np.int32)
    mask = np.zeros((BATCH, n), bool)
    for row, each in enumerate(rows):
        tokens[row, : len(each.ids)] = each.ids
        mask[row, : len(each.ids)] = True
    output = model(tokens, mask)
    every, at = np.arange(BATCH), np.array([each.mask for each in rows])
    logits = np.asarray(output.logits[every, at], np.float64)  # [B, V]
    top = logits.max(-1, keepdims=True)
    log_probabilities = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    attention = np.asarray(jax.device_get(output.attention), np.float64)  # [B, L, H, n, n]
    raw = np.asarray(jaxflow.raw_attention(attention, mask=mask))
    rolled = np.asarray(jaxflow.rollout(attention, residual=residual, mask=mask))
    lowest = np.asarray(edge_weights(attention[:, :1], residual=residual, mask=mask))[:, 0]
    found = []
    for row, each in enumerate(placed):
        real = slice(len(each.ids))
        flows = jaxflow.flow(
            attention[row, ..., real, real], residual=residual, sources=each.mask, threads=threads
        )
        found.append(
            {
                "log_probabilities": log_probabilities[row],
                "raw": raw[row, :, each.mask],
                "rollout": rolled[row, :, each.mask],
                "flow": np.asarray(flows)[:, 0],
                "column_sums": lowest[row].sum(-2),
            }
        )
    return found


def _case(
    schema: Schema,
    placed: Placed,
    tokens: tuple[str, ...],
    values: Mapping[str, NDArray[np.float64]],
) -> Case:
    first, second = placed.referents

    def summed(array: NDArray[np.float64]) -> NDArray[np.float64]:
        both = [array[..., pieces.start : pieces.stop].sum(-1) for pieces in (first, second)]
        return np.stack(both, axis=-1)

    def distance(pieces: range) -> int:
        return min(abs(piece - placed.mask) for piece in pieces)

    chosen = values["log_probabilities"]
    return Case(
        schema=schema,
        tokens=tokens,
        pieces=(len(first), len(second)),
        log_probabilities=(float(chosen[placed.fillers[0]]), float(chosen[placed.fillers[1]])),
        weights=MappingProxyType({name: summed(values[name]) for name in METHODS}),
        column_sums=summed(values["column_sums"]),
        distances=(distance(first), distance(second)),
    )
