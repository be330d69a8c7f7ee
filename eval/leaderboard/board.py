r"""Measure every method on every sentence.

**Faithfulness by removal**: how the prediction changes as tokens are removed, best first. A
sentence has m tokens that can be removed. For a ranking of them, :math:`p^-(q)` is the class's
probability without the share q of them that ranks best (rounded up to whole tokens),
:math:`p^+(q)` with that share alone, and :math:`p = p^-(0) = p^+(1)`; q = 0, .1, .2 ... 1.

====================== ===========================================================================
comprehensiveness      mean of :math:`p - p^-(q)` over q = .1 ... .5
sufficiency            mean of :math:`p - p^+(q)` over q = .1 ... .5; low is good
comprehensiveness_area mean of :math:`p - p^-(q)` over q = .1 ... 1, the area over the perturbation
                       curve
sufficiency_area       mean of :math:`p - p^+(q)` over q = 0 ... .9; low is good
deletion_auc           area under :math:`p^-(q)`, by trapezia; low is good
insertion_auc          area under :math:`p^+(q)`, by trapezia
====================== ===========================================================================

DeYoung et al., ERASER, ACL 2020; Petsiuk et al., RISE, BMVC 2018. A removed token is replaced as
in blank-out. Rankings share most of the sets that they remove, so every set of a sentence is
computed once.

**Agreement** with blank-out and with the gradient's norm over the tokens of a sentence: Spearman's
correlation and Kendall's :math:`\tau_b = (C - D) / \sqrt{(P - T_a) (P - T_b)}`, C concordant and D
discordant ones of the P pairs of tokens, :math:`T` pairs tied in one score (Kendall 1945).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Cases, grouped
from jaxflow.eval.leaderboard.scoring import Programs, Report, Scores
from jaxflow.models import Model

if TYPE_CHECKING:
    from jaxflow.eval.leaderboard.prompts import PromptPrograms

#: Measure -> whether high is good.
MEASURES: Mapping[str, bool] = {
    "spearman_blank_out": True,
    "kendall_blank_out": True,
    "spearman_gradient": True,
    "kendall_gradient": True,
    "comprehensiveness": True,
    "sufficiency": False,
    "comprehensiveness_area": True,
    "sufficiency_area": False,
    "deletion_auc": False,
    "insertion_auc": True,
    "subject_hit": True,
    "entropy": False,
    "at_bound": False,
}
#: Measures that describe a score, neither good nor bad.
NEUTRAL = ("entropy", "at_bound")

LONGEST = 63  # removable tokens: a set is the bits of one whole number
SHARES = tuple(tenths / 10 for tenths in range(11))
_REACHED = 1e-4  # below its bound, single precision being what flow is kept in
_BLOCK = 64  # sentences whose signs of differences are held at once


@dataclasses.dataclass(frozen=True, eq=False)
class Board:
    """The measures of R rows on S sentences.

    Entropy is a share of its maximum; ``at_bound``, of flow alone, is the share of the tokens whose
    flow is the sum of their column in layer 1, or 1 where that is more.
    """

    rows: tuple[tuple[str, int | None], ...]  # (method, layer from 0; None where it has only one)
    measures: Mapping[str, NDArray[np.float32]]  # by `MEASURES`, [R, S], NaN where not defined
    cases: Cases
    scores: Scores  # of every token by every method, with their cost and what is left out
    probability: NDArray[np.float32]  # [S], the class's probability for the whole sentence

    def final(self) -> list[int]:
        """Return each method's row of the top layer, or its only one."""
        last = {name: place for place, (name, _) in enumerate(self.rows)}
        return sorted(last.values())


def run_board(
    model: Model,
    cases: Cases,
    *,
    programs: Programs | PromptPrograms | None = None,
    seed: int = 0,
    threads: int | None = None,
    report: Report = lambda what, done, total: None,
) -> Board:
    """Score the tokens of sentences by every method, then measure the scores.

    Every row is correlated with both references; the rows of the top layers are judged by removal
    too. `model` has classes, or with `PromptPrograms` answers prompts; `programs` are of another
    model of the same configuration, `seed` is that of the random baseline, and `report` is called
    with the name of the step, how much of it is done, and of how much.
    """
    given: Any = Programs(model) if programs is None else programs
    scores = given.score(model, cases, seed=seed, threads=threads, report=report)
    rows = tuple(
        (name, layer if values.shape[1] > 1 else None)
        for name, values in scores.values.items()
        for layer in range(values.shape[1])
    )
    table = np.concatenate([np.moveaxis(v, 1, 0) for v in scores.values.values()])  # [R, S, n]
    measures = {name: np.full((len(rows), len(cases)), np.nan, np.float32) for name in MEASURES}
    board = Board(rows, measures, cases, scores, np.full(len(cases), np.nan, np.float32))
    _correlate(board, table, given.references, report)
    _describe(board, table)
    _remove(board, table, model, given, report)
    return board


def _correlate(
    board: Board, table: NDArray[np.float32], references: Mapping[str, str], report: Report
) -> None:
    """Fill in the correlations, over all real tokens as in the paper."""
    cases, done = board.cases, 0
    lengths = -(-cases.lengths // 8) * 8
    for some, every, n in grouped(lengths, table.shape[2], lambda n: _BLOCK):
        given = np.moveaxis(table[:, every, :n], 1, 0)  # [B, R, n]
        for reference, short in references.items():
            wanted = board.scores.values[reference][every, 0, :n]
            both = _of_sentences(given, wanted, cases.mask[every, :n])
            for name, found in zip(("spearman", "kendall"), both, strict=True):
                board.measures[f"{name}_{short}"][:, some] = np.asarray(found)[: len(some)].T
        done += len(some)
        report("correlating", done, len(cases))


def rank_correlations(
    scores: jax.Array, reference: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return Spearman's correlation and Kendall's tau-b ``[R]`` of scores with one reference.

    `scores` are ``[R, n]``, the others ``[n]``; tokens where the mask is False do not count. NaN
    where either side is constant over those that count. A token's rank is half the sum of its signs
    of differences, so that both follow from these.
    """
    pairs = mask[:, None] & mask[None]
    mine = jnp.where(pairs[None], jnp.sign(scores[:, :, None] - scores[:, None, :]), 0)
    other = jnp.where(pairs, jnp.sign(reference[:, None] - reference[None]), 0)[None]

    def ratio(a: jax.Array, b: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        size = jnp.sqrt((a * a).sum(axes) * (b * b).sum(axes))
        return jnp.where(size > 0, (a * b).sum(axes) / jnp.where(size > 0, size, 1), jnp.nan)

    return ratio(mine.sum(-1), other.sum(-1), (-1,)), ratio(mine, other, (-2, -1))


_of_sentences = jax.jit(jax.vmap(rank_correlations))


def _describe(board: Board, table: NDArray[np.float32]) -> None:
    """Fill in entropy, hits of the subject, and the share of tokens whose flow is at its bound."""
    cases, can, mask = board.cases, board.cases.removable, board.cases.mask
    positive = np.maximum(np.where(mask, table, 0), 0).astype(np.float64)
    total = positive.sum(-1, keepdims=True)
    shares = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    most = np.log(np.maximum(cases.lengths, 2))
    entropy = -(shares * logs).sum(-1) / most
    defined = (total[..., 0] > 0) & (cases.lengths > 1)
    board.measures["entropy"][:] = np.where(defined, entropy, np.nan)

    words = np.where(can, table, -np.inf)
    # Where several words are equally good, the hit is shared.
    ties = (words == words.max(-1, keepdims=True)) & can
    subject = np.maximum(cases.subject, 0)
    hit = ties[:, np.arange(len(cases)), subject] / np.maximum(ties.sum(-1), 1)
    board.measures["subject_hit"][:] = np.where(cases.subject >= 0, hit, np.nan)

    for place, (name, layer) in enumerate(board.rows):
        edge, _, how = name.partition("/")
        if how == "flow" and edge in board.scores.bounds:
            flow = board.scores.values[name][:, layer or 0]
            reached = (flow >= np.minimum(board.scores.bounds[edge], 1) - _REACHED) & mask
            board.measures["at_bound"][place] = reached.sum(-1) / mask.sum(-1)


def _remove(
    board: Board, table: NDArray[np.float32], model: Model, programs: Any, report: Report
) -> None:
    """Fill in the measures of removal, for the top layers."""
    cases, finals = board.cases, board.final()
    both = [kept_sets(ranking(table[finals, k], can)) for k, can in enumerate(cases.removable)]
    known = [np.unique(np.concatenate([sets.ravel() for sets in pair])) for pair in both]
    probabilities = programs.set_values(
        model, cases, known, lambda done, total: report("removing", done, total)
    )
    for sentence, pair in enumerate(both):
        values = [probabilities[sentence][np.searchsorted(known[sentence], each)] for each in pair]
        board.probability[sentence] = values[0][0, 0]
        if cases.removable[sentence].any():  # else undefined
            for name, found in removal_measures(*values).items():
                board.measures[name][finals, sentence] = found


def ranking(scores: NDArray[np.floating], removable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank the m removable tokens by R scores ``[R, n]``, best first, equal ones by place.

    Returns their numbers among the removable ones, ``[R, m]``.
    """
    return np.argsort(-scores[:, removable], axis=-1, kind="stable")


def kept_sets(ranked: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the kept sets, as bits: without the best of each share, and these alone.

    Both ``[R, 11]``, for the shares 0, .1 ... 1.
    """
    m = ranked.shape[-1]
    if m > LONGEST:
        raise InputError(f"sentences must have at most {LONGEST} tokens to remove, got {m}")
    bits = np.uint64(1) << ranked.astype(np.uint64)
    best = np.zeros((len(ranked), m + 1), np.uint64)
    best[:, 1:] = np.bitwise_or.accumulate(bits, axis=-1)
    best = best[:, [math.ceil(round(share * m, 9)) for share in SHARES]]
    return np.uint64((1 << m) - 1) & ~best, best


def removal_measures(
    without: NDArray[np.float64], alone: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the six measures of the module's docstring, each ``[R]``.

    `without` and `alone` are ``[R, 11]``: probabilities without the best of each share, and with
    these alone.
    """
    whole = without[:, :1]
    step = 1 / (len(SHARES) - 1)
    return {
        "comprehensiveness": (whole - without[:, 1:6]).mean(-1),
        "sufficiency": (whole - alone[:, 1:6]).mean(-1),
        "comprehensiveness_area": (whole - without[:, 1:]).mean(-1),
        "sufficiency_area": (whole - alone[:, :-1]).mean(-1),
        "deletion_auc": np.trapezoid(without, dx=step, axis=-1),
        "insertion_auc": np.trapezoid(alone, dx=step, axis=-1),
    }
