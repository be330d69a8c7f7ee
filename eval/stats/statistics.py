"""Means, intervals and paired tests over sentences, with undefined values left out and counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxflow.errors import InputError
from jaxflow.eval.stats.bootstrap import RESAMPLES, mean_intervals
from jaxflow.eval.stats.signed_rank import signed_rank

__all__ = [
    "RESAMPLES",
    "Cell",
    "PairedTest",
    "compare",
    "compare_each",
    "holm",
    "paired_test",
    "summarise",
    "summarise_each",
]

# Differences of correlations below this are rounding, not evidence.
_DECIMALS = 12
# Columns are held together, because they share the bootstrap's work, up to 256 MB of them.
_HELD = 256 << 20


@dataclass(frozen=True)
class Cell:
    """One number of a table: a mean over sentences with what is known about it.

    Attributes
    ----------
    mean
        Mean over the defined values; NaN if there is none.
    std
        Their standard deviation with ``ddof=0`` (divided by n), as the paper's authors computed
        it; NaN if there is none.
    ci95
        95 % percentile bootstrap interval of the mean; NaN if n < 2.
    n
        Sentences with a defined value.
    nan
        Sentences left out, their value being NaN.
    """

    mean: float
    std: float
    ci95: tuple[float, float]
    n: int
    nan: int


@dataclass(frozen=True)
class PairedTest:
    """Whether one score is higher than another on the same sentences.

    Attributes
    ----------
    difference
        Mean of ``a - b``; NaN if no sentence has both.
    ci95
        95 % percentile bootstrap interval of that mean, sentences resampled in pairs; NaN if
        n < 2.
    p
        Two-sided p-value of the Wilcoxon signed-rank test; 1 if all differences are zero, NaN if
        n < 2 (no test).
    rank_biserial
        (W₊ − W₋) / (W₊ + W₋) in [-1, 1], the direction in which the test points; 0 if all
        differences are zero, NaN if no sentence has both.
    n
        Sentences on which both are defined.
    nan
        Sentences left out.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    rank_biserial: float
    n: int
    nan: int


def summarise(values: ArrayLike, seed: int, *, resamples: int = RESAMPLES) -> tuple[Cell, ...]:
    """Mean, standard deviation and bootstrap interval of each column.

    Parameters
    ----------
    values
        ``[S, L]``, NaN where undefined.
    seed
        Of the bootstrap. A column's interval depends on its own values and on the seed only, not
        on the columns beside it.
    resamples
        Number of bootstrap resamples.

    Returns
    -------
    tuple of Cell
        L of them.

    Raises
    ------
    InputError
        If `values` is not ``[S, L]`` or holds an infinity.
    """
    return summarise_each(_checked("values", values, ndim=2).T, seed, resamples=resamples)


def summarise_each(
    columns: Iterable[ArrayLike], seed: int, *, resamples: int = RESAMPLES
) -> tuple[Cell, ...]:
    """Make the cells of `summarise` of columns ``[S]`` that come one after the other.

    No more than 256 MB of them are held at a time, or one.
    """
    cells = []
    checked = (_checked("values", column, ndim=1) for column in columns)
    for part in _parts(checked):
        intervals = mean_intervals([kept for kept, _ in part], seed, resamples)
        for (kept, nan), ci95 in zip(part, intervals, strict=True):
            mean = float(kept.mean()) if len(kept) else math.nan
            std = float(kept.std()) if len(kept) else math.nan
            cells.append(Cell(mean, std, ci95, len(kept), nan))
    return tuple(cells)


def paired_test(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedTest:
    r"""Test whether `a` and `b` differ on the same sentences: Wilcoxon's signed-rank test.

    Parameters
    ----------
    a, b
        ``[S]`` each; sentences on which either is NaN are left out and counted.
    seed, resamples
        Of the bootstrap interval of the mean difference.

    Returns
    -------
    PairedTest

    Raises
    ------
    InputError
        If the two are not ``[S]`` of the same S, or hold an infinity.

    Notes
    -----
    The differences' magnitudes get average ranks :math:`r_i`, zeros ranked with the others and
    then dropped (Pratt 1959). Given the ranks, every sign is equally likely under the null
    hypothesis, so :math:`W_+` has mean :math:`\sum r_i / 2` and variance :math:`\sum r_i^2 / 4`,
    ties included. With at most 50 non-zero differences its distribution is summed exactly, above
    that the normal approximation is used. Differences are rounded to 12 decimals first: two
    correlations that are equal but for rounding are a tie.
    """
    a, b = _checked("a", a, ndim=1), _checked("b", b, ndim=1)
    if a.shape != b.shape:
        raise InputError(f"a and b must have the same sentences, got {a.shape} and {b.shape}")
    return compare((a - b)[:, None], seed=seed, resamples=resamples)[0]


def compare(
    differences: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[PairedTest, ...]:
    """Make the test of `paired_test` for many pairs at once, which share the bootstrap's work.

    Parameters
    ----------
    differences
        ``[S, K]``: ``a - b`` of each pair, NaN where either is undefined.
    seed, resamples
        As for `paired_test`, whose results these are.

    Returns
    -------
    tuple of PairedTest
        K of them.
    """
    columns = _checked("differences", differences, ndim=2).T
    return compare_each(columns, seed=seed, resamples=resamples)


def compare_each(
    differences: Iterable[ArrayLike], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[PairedTest, ...]:
    """Make the tests of `compare` of columns ``[S]``, held as `summarise_each` holds them."""
    tests = []
    columns = (_checked("differences", column, ndim=1) for column in differences)
    for part in _parts(np.round(column, _DECIMALS) for column in columns):
        intervals = mean_intervals([kept for kept, _ in part], seed, resamples)
        for (kept, nan), ci95 in zip(part, intervals, strict=True):
            mean = float(kept.mean()) if len(kept) else math.nan
            p, direction = signed_rank(kept)
            tests.append(PairedTest(mean, ci95, p, direction, len(kept), nan))
    return tuple(tests)


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    r"""P-values adjusted for their number (Holm 1979); rejecting below α keeps the error at α.

    The k-th smallest of m is multiplied by :math:`m - k + 1`, made monotone and cut at 1. NaN (no
    test was made) stays NaN and is not counted in m.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return tuple(adjusted.tolist())


def _parts(columns: Iterable[NDArray]) -> Iterator[list[tuple[NDArray, int]]]:
    """Yield what is defined of each column and how much is not, as many at a time as are held."""
    part: list[tuple[NDArray, int]] = []
    size = 0
    for column in columns:
        kept = column[~np.isnan(column)]
        if part and size + kept.nbytes > _HELD:
            yield part
            part, size = [], 0
        part.append((kept, len(column) - len(kept)))
        size += kept.nbytes
    if part:
        yield part


def _checked(name: str, values: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        shape = "[sentences, layers]" if ndim == 2 else "[sentences]"
        raise InputError(f"{name} must have the shape {shape}, got {array.shape}")
    if np.isinf(array).any():
        raise InputError(f"{name} must be finite or NaN, got an infinity")
    return array
