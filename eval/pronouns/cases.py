"""Compare which referent of a masked pronoun a model prefers with which one attention prefers.

The model's choice between two referents is that of the more probable pronoun; the choice of raw
attention, rollout and flow is the referent from which more reaches the mask.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.attention import edge_weights
from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import Placed, Schema, place
from jaxflow.eval.stats import Share, share_of

METHODS = ("raw", "rollout", "flow")

#: Weights closer than this are a tie: flow is exact to as much.
TIE = 1e-9

# The normal distribution's two-sided 95 % quantile.
_Z95 = 1.959963984540054

#: Baselines that do not use the mask's row: column sums of A[1], and the referents' places.
BASELINES = ("column_sum", "nearest", "first")

BATCH = 16  # sentences encoded at once; every batch has the same shape and is compiled once


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One sentence as a model of L layers reads it. Pairs follow the order of the referents."""

    schema: Schema
    tokens: tuple[str, ...]  # the n tokens of the model's input
    pieces: tuple[int, int]  # how many of them each referent has
    log_probabilities: tuple[float, float]  # of the two fillers at the mask, among all words
    weights: Mapping[str, NDArray[np.float64]]  # method -> [L, 2]: what of each reaches the mask
    column_sums: NDArray[np.float64]  # [2], sent to all tokens in the lowest layer: it bounds flow
    distances: tuple[int, int]  # tokens from the mask to each referent's nearest word piece

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
    """Compute fillers' probabilities and each method's weights at the mask of every sentence.

    `model` is a masked language model, `residual` the share of the residual connection in rollout
    and flow; `report` is called with the number of sentences done and their total. Raises
    `InputError` if the model does not predict masked words, or a sentence does not fit it.
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
            cases.append(_case(schema, each, tuple(model.text.decode(each.ids)), values))
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
    lowest = np.asarray(edge_weights(attention[:, :1], residual=residual, mask=mask))[:, 0]
    found = []
    for row, each in enumerate(placed):
        real = slice(len(each.ids))
        # With its padding, so that there is one program for all.
        rolled = jaxflow.rollout(
            attention[row], residual=residual, mask=mask[row], sources=each.mask
        )
        flows = jaxflow.flow(
            attention[row, ..., real, real], residual=residual, sources=each.mask, threads=threads
        )
        found.append(
            {
                "log_probabilities": log_probabilities[row],
                "raw": raw[row, :, each.mask],
                "rollout": rolled[:, 0],
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
        return np.stack([array[..., pieces].sum(-1) for pieces in (first, second)], axis=-1)

    one, other = values["log_probabilities"][list(placed.fillers)].tolist()
    nearest = [min(abs(piece - placed.mask) for piece in pieces) for pieces in placed.referents]
    return Case(
        schema=schema,
        tokens=tokens,
        pieces=(len(first), len(second)),
        log_probabilities=(one, other),
        weights=MappingProxyType({name: summed(values[name]) for name in METHODS}),
        column_sums=summed(values["column_sums"]),
        distances=(nearest[0], nearest[1]),
    )


@dataclasses.dataclass(frozen=True)
class Rows:
    """Shares of every method, layer by layer, and of the baselines."""

    methods: Mapping[str, tuple[Share, ...]]  # by `METHODS`, L shares
    baselines: Mapping[str, Share]  # by `BASELINES`


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's correlation over n sentences with its 95 % interval; NaN where undefined."""

    rho: float
    ci95: tuple[float, float]
    n: int


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Shares and correlations of the methods' agreement with the model's preferences.

    `sentences` are the shares in which a method and the model prefer the same referent; `turned`,
    among the pairs in which the model prefers the first referent of one sentence and the second of
    the other, those in which a method follows it in both: a method that always prefers the same
    place has 0 there, a random one .25. `correlations` are, by method and layer, Spearman's over
    sentences of ``(w₁ - w₂) / (w₁ + w₂)`` with the model's log-odds, the first referent being 1.
    """

    sentences: Rows
    turned: Rows
    correlations: Mapping[str, tuple[Correlation, ...]]
    model_first: Share  # in which the model prefers the first referent
    model_intended: Share  # or the one that people mean, where there is one
    undecided: int  # left out of everything, the model giving both fillers the same probability


def agreement(cases: Sequence[Case]) -> Agreement:
    r"""Compare preferences over at least one sentence of one model; none raises `InputError`.

    Intervals of shares are Wilson's; those of Spearman's correlation are
    :math:`\tanh(\operatorname{artanh} \rho \pm z \sqrt{(1 + \rho^2 / 2) / (n - 3)})` (Bonett
    and Wright 2000). Both take the sentences as independent, which those of a pair are not quite.
    """
    if not cases:
        raise InputError("agreement needs at least one sentence, got none")
    odds = np.array([case.log_odds for case in cases])
    model = _preferred(odds)
    known = np.array([case.schema.intended is not None for case in cases])
    meant = np.array([1 - 2 * (case.schema.intended or 0) for case in cases])
    pairs = _turned_pairs(cases, model)

    def of_sentences(preferred: NDArray[np.int64]) -> Share:
        kept = model != 0
        return share_of(preferred[kept] == model[kept], preferred[kept] != 0)

    def of_pairs(preferred: NDArray[np.int64]) -> Share:
        return share_of((preferred[pairs] == model[pairs]).all(1), (preferred[pairs] != 0).all(1))

    return Agreement(
        sentences=_rows(cases, of_sentences),
        turned=_rows(cases, of_pairs),
        correlations={name: _correlations(_weights(cases, name), odds) for name in METHODS},
        model_first=share_of(model > 0, model != 0),
        model_intended=share_of(model[known] == meant[known], model[known] != 0),
        undecided=int((model == 0).sum()),
    )


def _weights(cases: Sequence[Case], method: str) -> NDArray[np.float64]:
    """Return a method's weights ``[S, L, 2]``."""
    return np.stack([case.weights[method] for case in cases])


def _preferred(differences: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return 1 for the first referent, -1 for the second and 0 for a tie."""
    return np.where(np.abs(differences) <= TIE, 0, np.sign(differences)).astype(np.int64)


def _rows(cases: Sequence[Case], share: Callable[[NDArray[np.int64]], Share]) -> Rows:
    methods = {}
    for name in METHODS:
        weights = _weights(cases, name)
        methods[name] = tuple(
            share(_preferred(layer[:, 0] - layer[:, 1])) for layer in weights.transpose(1, 0, 2)
        )
    sums = np.stack([case.column_sums for case in cases])
    places = np.array([case.distances for case in cases])
    differences = {
        "column_sum": sums[:, 0] - sums[:, 1],
        "nearest": (places[:, 1] - places[:, 0]).astype(np.float64),
        "first": np.ones(len(cases)),
    }
    return Rows(methods, {name: share(_preferred(differences[name])) for name in BASELINES})


def _turned_pairs(cases: Sequence[Case], model: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices ``[P, 2]`` of the pairs in which the model's choice changes its place."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, case in enumerate(cases):
        if case.schema.pair:
            members[case.schema.pair].append(row)
    pairs = [pair for pair in members.values() if len(pair) == 2]
    turned = [pair for pair in pairs if model[pair[0]] * model[pair[1]] < 0]
    return np.array(turned, np.int64).reshape(-1, 2)


def _correlations(
    weights: NDArray[np.float64], odds: NDArray[np.float64]
) -> tuple[Correlation, ...]:
    total = weights.sum(-1)
    shares = (weights[..., 0] - weights[..., 1]) / np.where(total > 0, total, 1)  # [S, L]
    values = np.asarray(jaxflow.spearman(shares.T, np.broadcast_to(odds, shares.T.shape)))
    return tuple(
        Correlation(float(rho), _interval(float(rho), len(odds)), len(odds)) for rho in values
    )


def _interval(rho: float, n: int) -> tuple[float, float]:
    if n <= 3 or math.isnan(rho):
        return math.nan, math.nan
    bounded = min(max(rho, -1 + 1e-12), 1 - 1e-12)  # artanh(1) is infinite
    half = _Z95 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = math.atanh(bounded)
    return math.tanh(centre - half), math.tanh(centre + half)
