"""Whether attention prefers the referent that the model prefers, over many sentences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.pronouns.choice import METHODS, Case
from jaxflow.eval.stats import Share, share_of

__all__ = ["BASELINES", "TIE", "Agreement", "Correlation", "Rows", "agreement"]

#: Weights closer than this are a tie: flow is exact to as much.
TIE = 1e-9

# The normal distribution's two-sided 95 % quantile.
_Z95 = 1.959963984540054

#: What knows nothing of the mask's row: the column sums of A[1], and the referents' places.
BASELINES = ("column_sum", "nearest", "first")


@dataclass(frozen=True)
class Rows:
    """Shares of every method, layer by layer, and of the baselines.

    Attributes
    ----------
    methods
        ``raw``, ``rollout`` and ``flow`` -> L shares.
    baselines
        ``column_sum`` (of A[1]), ``nearest`` (to the mask) and ``first`` (in the
        sentence) -> a share.
    """

    methods: Mapping[str, tuple[Share, ...]]
    baselines: Mapping[str, Share]


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation over n sentences with its 95 % interval; NaN where undefined."""

    rho: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Agreement:
    """How the methods' preferences go with the model's.

    Attributes
    ----------
    sentences
        Share of the sentences in which a method and the model prefer the same referent.
    turned
        Among the pairs in which the model prefers the first referent of one sentence and the second
        of the other: the share in which a method follows it in both. What always takes the same
        place has 0 here, what draws lots .25.
    correlations
        Method -> for each layer, Spearman's correlation over sentences of
        ``(w₁ - w₂) / (w₁ + w₂)`` with the model's log-odds, the referent that stands first being 1.
    model_first
        Share in which the model prefers the referent that stands first.
    model_intended
        Share in which the model prefers the referent that people mean, where there is one.
    undecided
        Sentences left out of everything, the model giving both fillers the same probability.
    """

    sentences: Rows
    turned: Rows
    correlations: Mapping[str, tuple[Correlation, ...]]
    model_first: Share
    model_intended: Share
    undecided: int


def agreement(cases: Sequence[Case]) -> Agreement:
    r"""Compare preferences over sentences.

    Parameters
    ----------
    cases
        Of one model, at least one.

    Raises
    ------
    InputError
        If there is none.

    Notes
    -----
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
    for place, case in enumerate(cases):
        if case.schema.pair:
            members[case.schema.pair].append(place)
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
