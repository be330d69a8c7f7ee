"""The board: every method by every measure, sentence by sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.leaderboard import removal
from jaxflow.eval.leaderboard.agreement import of_sentences
from jaxflow.eval.leaderboard.cases import Cases
from jaxflow.eval.leaderboard.methods import REFERENCES
from jaxflow.eval.leaderboard.programs import Programs, tokens_at_once
from jaxflow.eval.leaderboard.scoring import Scores, score_cases
from jaxflow.eval.score.reading import blank_id
from jaxflow.models import Model

__all__ = ["MEASURES", "NEUTRAL", "Board", "judge", "run_board"]

#: Measure -> whether high is good.
MEASURES: Mapping[str, bool] = {
    "spearman_blank_out": True,
    "kendall_blank_out": True,
    "spearman_gradient": True,
    "kendall_gradient": True,
    **removal.MEASURES,
    "subject_hit": True,
    "entropy": False,
    "at_bound": False,
}
#: Measures that say what a score is like, neither good nor bad.
NEUTRAL = ("entropy", "at_bound")
_REACHED = 1e-4  # below its bound, single precision being what flow is kept in
_BLOCK = 64  # rows of scores whose signs of differences are held at once


@dataclasses.dataclass(frozen=True, eq=False)
class Board:
    """R rows judged on S sentences.

    Attributes
    ----------
    rows
        ``(method, layer)``, the layer from 0, None where a method has only one.
    measures
        Measure (`MEASURES`) -> float32 ``[R, S]``, NaN where it is not defined. Entropy is a share
        of its maximum and says how spread a score is; ``at_bound``, of flow alone, is the share of
        the tokens whose flow is the sum of their column in layer 1, or 1 where that is more, and
        says nothing else of them.
    seconds
        Method -> seconds a sentence.
    left_out
        Edge weight or other method -> why it is not there.
    cases
        What was judged on.
    scores
        What the methods said.
    probability
        float32 ``[S]``: the class's probability for the whole sentence.
    """

    rows: tuple[tuple[str, int | None], ...]
    measures: Mapping[str, NDArray[np.float32]]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    cases: Cases
    scores: Scores
    probability: NDArray[np.float32]

    def final(self) -> list[int]:
        """Return the rows that stand for their methods: of the top layer, or the only one."""
        last = {name: place for place, (name, _) in enumerate(self.rows)}
        return sorted(last.values())


def run_board(
    model: Model,
    cases: Cases,
    *,
    programs: Programs | None = None,
    seed: int = 0,
    threads: int | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Board:
    """Score, then judge.

    Parameters
    ----------
    model
        A model with classes.
    cases
        The sentences.
    programs
        Of another model of the same configuration, to be used again.
    seed
        Of the random baseline.
    threads
        For flow; None takes all cores.
    report
        Called with what is being done, how much of it, and of how much.
    """
    programs = Programs(model) if programs is None else programs
    options: dict[str, Any] = {"programs": programs, "report": report}
    scores = score_cases(model, cases, seed=seed, threads=threads, **options)
    return judge(model, cases, scores, **options)


def judge(
    model: Model,
    cases: Cases,
    scores: Scores,
    *,
    programs: Programs | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Board:
    """Judge what the methods said.

    Every row is correlated with both references; the rows of the top layers, which stand for
    their methods, are judged by removal too.
    """
    rows = tuple(
        (name, layer if values.shape[1] > 1 else None)
        for name, values in scores.values.items()
        for layer in range(values.shape[1])
    )
    table = np.concatenate([np.moveaxis(v, 1, 0) for v in scores.values.values()])  # [R, S, n]
    measures = {name: np.full((len(rows), len(cases)), np.nan, np.float32) for name in MEASURES}
    probability = np.full(len(cases), np.nan, np.float32)
    board = Board(rows, measures, scores.seconds, scores.left_out, cases, scores, probability)
    _correlate(board, table, report)
    _point(board, table)
    _bound(board)
    _remove(board, table, model, programs or Programs(model), report)
    return board


def _correlate(board: Board, table: NDArray[np.float32], report: Callable[..., None]) -> None:
    """Fill in the correlations, over all real tokens as in the paper."""
    cases = board.cases
    lengths = -(-cases.lengths // 8) * 8
    done = 0
    for length in np.unique(lengths):
        n = int(min(length, table.shape[2]))
        members = np.flatnonzero(lengths == length)
        for begin in range(0, len(members), _BLOCK):
            some = members[begin : begin + _BLOCK]
            every = np.concatenate([some, np.repeat(some[:1], _BLOCK - len(some))])
            mask = cases.mask[every, :n]
            given = np.moveaxis(table[:, every, :n], 1, 0)  # [B, R, n]
            for reference, short in zip(REFERENCES, ("blank_out", "gradient"), strict=True):
                wanted = board.scores.values[reference][every, 0, :n]
                spearman, kendall = of_sentences(given, wanted, mask)
                for name, found in (("spearman", spearman), ("kendall", kendall)):
                    values = np.asarray(found)[: len(some)].T
                    board.measures[f"{name}_{short}"][:, some] = values
            done += len(some)
            report("correlating", done, len(cases))


def _point(board: Board, table: NDArray[np.float32]) -> None:
    """Fill in entropy, and whether the best word is the subject."""
    cases, can = board.cases, board.cases.removable
    positive = np.maximum(np.where(cases.mask, table, 0), 0).astype(np.float64)
    total = positive.sum(-1, keepdims=True)
    shares = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    most = np.log(np.maximum(cases.lengths, 2))
    entropy = -(shares * logs).sum(-1) / most
    defined = (total[..., 0] > 0) & (cases.lengths > 1)
    board.measures["entropy"][:] = np.where(defined, entropy, np.nan)

    words = np.where(can, table, -np.inf)
    best = words.max(-1, keepdims=True)
    # Where several words are equally good, the hit is shared.
    ties = (words == best) & can
    known = cases.subject >= 0
    at = np.maximum(cases.subject, 0)
    hit = ties[:, np.arange(len(cases)), at] / np.maximum(ties.sum(-1), 1)
    board.measures["subject_hit"][:] = np.where(known, hit, np.nan)


def _bound(board: Board) -> None:
    """Fill in the share of tokens whose flow is at the bound of its sink."""
    mask = board.cases.mask
    for place, (name, layer) in enumerate(board.rows):
        edge, _, how = name.partition("/")
        if how == "flow":
            flow = board.scores.values[name][:, layer or 0]
            reached = (flow >= np.minimum(board.scores.bounds[edge], 1) - _REACHED) & mask
            board.measures["at_bound"][place] = reached.sum(-1) / mask.sum(-1)


def _remove(
    board: Board,
    table: NDArray[np.float32],
    model: Model,
    programs: Programs,
    report: Callable[..., None],
) -> None:
    """Fill in the measures of removal, for the rows that stand for their methods."""
    cases, finals = board.cases, board.final()
    both, known = [], []
    for sentence in range(len(cases)):
        ranking = removal.order(table[finals, sentence], cases.removable[sentence])
        without, alone = removal.kept_sets(ranking)
        both.append((without, alone))
        known.append(np.unique(np.concatenate([without.ravel(), alone.ravel()])))
    probabilities = removal.set_probabilities(
        lambda tokens, mask: np.asarray(programs.classify(model.params, tokens, mask)),
        cases,
        known,
        blank_id(model),
        tokens_at_once=tokens_at_once(),
        report=lambda done, total: report("removing", done, total),
    )
    for sentence, (without, alone) in enumerate(both):
        values = [
            removal.curves(sets, known[sentence], probabilities[sentence])
            for sets in (without, alone)
        ]
        board.probability[sentence] = values[0][0, 0]
        if not cases.removable[sentence].any():
            continue  # nothing can be removed: undefined
        for name, found in removal.measures(*values).items():
            board.measures[name][finals, sentence] = found
