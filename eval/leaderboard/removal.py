r"""Faithfulness by removal: how the prediction moves as tokens are taken away, best first.

A sentence has m tokens that can be removed. For a ranking of them, :math:`p^-(q)` is the class's
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

DeYoung et al., ERASER, ACL 2020; Petsiuk et al., RISE, BMVC 2018.

What is removed is replaced by the token for unknown words. Rankings share most of the sets that
they remove, so every set of a sentence is worked out once, however many ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.cases import Cases

__all__ = ["LONGEST", "MEASURES", "curves", "kept_sets", "measures", "order", "set_probabilities"]

LONGEST = 63  # removable tokens: a set is the bits of one whole number

SHARES = tuple(tenths / 10 for tenths in range(11))

#: Measure -> whether high is good.
MEASURES = {
    "comprehensiveness": True,
    "sufficiency": False,
    "comprehensiveness_area": True,
    "sufficiency_area": False,
    "deletion_auc": False,
    "insertion_auc": True,
}


def order(scores: NDArray[np.floating], removable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank the removable tokens, best first; equal scores in the order of the sentence.

    Parameters
    ----------
    scores
        ``[R, n]``, R rankings of one sentence.
    removable
        bool ``[n]``, m of them True.

    Returns
    -------
    ndarray
        ``[R, m]``: numbers of the removable tokens, from 0 to m - 1.
    """
    return np.argsort(-scores[:, removable], axis=-1, kind="stable")


def kept_sets(ranking: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the sets that stay, as bits: without the best of each share, and these alone.

    Both ``[R, 11]``, for the shares 0, .1 ... 1.
    """
    m = ranking.shape[-1]
    if m > LONGEST:
        raise InputError(f"sentences must have at most {LONGEST} tokens to remove, got {m}")
    bits = np.uint64(1) << ranking.astype(np.uint64)
    best = np.zeros((len(ranking), m + 1), np.uint64)
    best[:, 1:] = np.bitwise_or.accumulate(bits, axis=-1)
    best = best[:, [math.ceil(round(share * m, 9)) for share in SHARES]]
    return np.uint64((1 << m) - 1) & ~best, best


def set_probabilities(
    predict: Callable[[NDArray[np.int32], NDArray[np.bool_]], NDArray[np.floating]],
    cases: Cases,
    sets: list[NDArray[np.uint64]],
    blank: int,
    *,
    tokens_at_once: int = 2048,
    step: int = 4,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.float64]]:
    """Work out the class's probability for sets of tokens that stay.

    Parameters
    ----------
    predict
        From tokens ``[B, n]`` and their mask to probabilities ``[B, C]``; called with one B for
        each length, so that it is compiled once for it.
    cases
        S sentences.
    sets
        For each sentence its sets, as bits over its removable tokens, each once.
    blank
        What stands in place of a removed token.
    tokens_at_once, step
        About how many tokens a call has, and what lengths are padded to a multiple of.
    report
        Called with the sets done and their number.

    Returns
    -------
    list
        For each sentence the probabilities of its sets, float64.
    """
    found = [np.empty(len(each)) for each in sets]
    total = sum(len(each) for each in sets)
    done = 0
    bucket = -(-cases.lengths // step) * step
    for length in np.unique(bucket):
        n = int(min(length, cases.tokens.shape[1]))
        rows = max(1, tokens_at_once // n)
        members = np.flatnonzero(bucket == length)
        owner = np.repeat(members, [len(sets[row]) for row in members])
        place = np.concatenate([np.arange(len(sets[row])) for row in members] or [np.zeros(0, int)])
        for begin in range(0, len(owner), rows):
            who, which = owner[begin : begin + rows], place[begin : begin + rows]
            bits = np.array([sets[row][at] for row, at in zip(who, which, strict=True)], np.uint64)
            every = np.concatenate([who, np.repeat(who[:1], rows - len(who))])
            tokens, mask = cases.tokens[every, :n].copy(), cases.mask[every, :n]
            can = cases.removable[every, :n]
            number = np.cumsum(can, axis=-1) - 1
            padded = np.concatenate([bits, np.zeros(rows - len(bits), np.uint64)])
            stays = (padded[:, None] >> number.clip(0).astype(np.uint64)) & np.uint64(1)
            tokens[can & (stays == 0)] = blank
            probabilities = np.asarray(predict(tokens, mask), np.float64)
            values = probabilities[np.arange(len(who)), cases.labels[who]]
            for row, at, value in zip(who, which, values, strict=True):
                found[row][at] = value
            done += len(who)
            report(done, total)
    return found


def curves(
    sets: NDArray[np.uint64], known: NDArray[np.uint64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Look up the probabilities of sets among the sorted `known` ones."""
    return values[np.searchsorted(known, sets)]


def measures(
    without: NDArray[np.float64], alone: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the measures of the module's docstring.

    Parameters
    ----------
    without, alone
        ``[R, 11]``: probabilities without the best of each share, and with these alone.

    Returns
    -------
    dict
        Measure -> ``[R]``.
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
