"""Compute means, intervals and paired tests over sentences; undefined values (NaN) are left out.

The signed-rank test of many differences and the binomial interval are SciPy's. The exact test of
few and the bootstrap are our own: SciPy's exact signed-rank distribution excludes ties and zeros,
which are frequent in correlations of short sentences, and its bootstrap draws again for every
column, where one draw here serves all columns in a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxflow.errors import InputError

#: Bootstrap resamples of every interval.
RESAMPLES = 2000

# Differences of correlations below this are rounding, not evidence.
_DECIMALS = 12
# Up to this many non-zero differences the signed-rank distribution is summed exactly.
_EXACT = 50
# Columns are held together, because they share the bootstrap's work, up to 256 MB of them.
_HELD = 256 << 20
# Counts multiplied at once, as float64: 32 MB.
_BLOCK = 4_000_000
# Of many sentences, resamples drawn at once, because every block of them reads all columns again;
# as long as their counts, a byte each, take no more than 64 MB.
_TOGETHER, _COUNTS = 100, 64_000_000


@dataclass(frozen=True)
class Cell:
    """A mean over sentences.

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


@dataclass(frozen=True)
class Share:
    """The share of cases in which something holds, with its interval."""

    share: float  # of the n cases; NaN if there is none
    ci95: tuple[float, float]  # its `binomial_interval`
    n: int  # cases that were decided
    ties: int  # cases left out, because neither side weighs more


def summarise(
    values: ArrayLike | Iterator[ArrayLike], seed: int, *, resamples: int = RESAMPLES
) -> tuple[Cell, ...]:
    """Return mean, standard deviation and bootstrap interval of each column.

    Parameters
    ----------
    values
        ``[S, K]``, NaN where undefined; or an iterator over columns ``[S]``, of which no more than
        256 MB are held at a time, or one.
    seed
        Of the bootstrap. A column's interval depends on its own values and on the seed only, not
        on the columns beside it.
    resamples
        Number of bootstrap resamples.

    Returns
    -------
    tuple of Cell
        K of them.

    Raises
    ------
    InputError
        If `values` has another shape, or holds an infinity.
    """
    cells = []
    for part in _parts(_columns("values", values)):
        intervals = _mean_intervals([kept for kept, _ in part], seed, resamples)
        for (kept, nan), ci95 in zip(part, intervals, strict=True):
            mean, std = (kept.mean(), kept.std()) if len(kept) else (math.nan, math.nan)
            cells.append(Cell(float(mean), float(std), ci95, len(kept), nan))
    return tuple(cells)


def compare(
    differences: ArrayLike | Iterator[ArrayLike], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[PairedTest, ...]:
    r"""Test whether paired differences are zero: the signed-rank test of Wilcoxon (1945).

    Parameters
    ----------
    differences
        ``[S, K]``: ``a - b`` of each pair, NaN where either is undefined; or an iterator over
        columns, as `summarise` takes it.
    seed, resamples
        Of the bootstrap interval of the mean difference.

    Returns
    -------
    tuple of PairedTest
        K of them.

    Raises
    ------
    InputError
        As `summarise`.

    Notes
    -----
    The differences' magnitudes get average ranks :math:`r_i`, zeros ranked with the others and
    then dropped (Pratt 1959). Given the ranks, every sign is equally likely under the null
    hypothesis, so :math:`W_+` has mean :math:`\sum r_i / 2` and variance :math:`\sum r_i^2 / 4`,
    ties included. With at most 50 non-zero differences its distribution is summed exactly, above
    that the normal approximation is used. Differences are rounded to 12 decimals first: two
    correlations that are equal but for rounding are a tie.
    """
    tests = []
    columns = _columns("differences", differences)
    for part in _parts(np.round(column, _DECIMALS) for column in columns):
        intervals = _mean_intervals([kept for kept, _ in part], seed, resamples)
        for (kept, nan), ci95 in zip(part, intervals, strict=True):
            mean = float(kept.mean()) if len(kept) else math.nan
            p = float(signed_rank(kept[None])[0])
            tests.append(PairedTest(mean, ci95, p, _rank_biserial(kept), len(kept), nan))
    return tuple(tests)


def signed_rank(differences: ArrayLike) -> NDArray[np.float64]:
    """Return the two-sided p-value of each row of ``[K, S]`` differences, as `compare` tests it.

    NaN are left out; the p-value is NaN where fewer than two are left, 1 where all are zero.
    Raises `InputError` if a difference is infinite.
    """
    from scipy.stats import rankdata, wilcoxon

    rows = _checked("differences", differences, "[pairs, sentences]")
    defined = ~np.isnan(rows)
    nonzero = np.count_nonzero((rows != 0) & defined, axis=1)
    p = np.where(defined.sum(1) > 1, 1.0, np.nan)
    tested = (nonzero > 0) & (defined.sum(1) > 1)
    for k in np.flatnonzero(tested & (nonzero <= _EXACT)):
        row = rows[k, defined[k]]
        ranks = rankdata(np.abs(row))
        p[k] = _exact_tails(ranks[row != 0], float(ranks[row > 0].sum()))
    many = tested & (nonzero > _EXACT)
    if many.any():
        p[many] = wilcoxon(
            rows[many],
            axis=1,
            zero_method="pratt",
            correction=False,
            method="asymptotic",
            nan_policy="omit",
        ).pvalue
    return p


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    r"""Return p-values adjusted for their number (Holm 1979).

    The k-th smallest of m is multiplied by :math:`m - k + 1`, made monotone and cut at 1. NaN (no
    test was made) stays NaN and is not counted in m.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return tuple(adjusted.tolist())


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson (1927); NaN if n is 0.

    Examples
    --------
    >>> low, high = binomial_interval(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    from scipy.stats import binomtest

    if n == 0:
        return math.nan, math.nan
    low, high = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def share_of(holds: ArrayLike, decided: ArrayLike) -> Share:
    """Return the share of `decided` cases ``[S]`` in which something `holds`; others are ties."""
    holds, decided = np.asarray(holds, bool), np.asarray(decided, bool)
    n, successes = int(decided.sum()), int((holds & decided).sum())
    share = successes / n if n else math.nan
    return Share(share, binomial_interval(successes, n), n, int((~decided).sum()))


def _rank_biserial(difference: NDArray[np.float64]) -> float:
    """Return (W+ - W-) / (W+ + W-) of differences ``[n]``."""
    from scipy.stats import rankdata

    if not len(difference):
        return math.nan
    signed = rankdata(np.abs(difference)) * np.sign(difference)
    total = np.abs(signed).sum()
    return float(signed.sum() / total) if total else 0.0


def _exact_tails(ranks: NDArray[np.float64], above: float) -> float:
    """Return how likely a sum of randomly chosen ranks is at least as far from its mean."""
    doubled = np.round(2 * ranks).astype(int)  # average ranks are halves at the finest
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1
    for rank in doubled:
        with_rank = np.zeros_like(chance)
        with_rank[rank:] = chance[: len(chance) - rank]
        chance = (chance + with_rank) / 2
    # The distribution is symmetric, so the other tail is as heavy.
    nearer = round(2 * above)
    tail = float(chance[: min(nearer, len(chance) - 1 - nearer) + 1].sum())
    return min(2 * tail, 1.0)


def _mean_intervals(
    columns: Sequence[NDArray[np.float64]], seed: int, resamples: int
) -> list[tuple[float, float]]:
    """Return the 95 % percentile bootstrap interval of each column's mean; NaN if n < 2.

    What is drawn depends on the seed and on n alone, so columns ``[n]`` of one n share their
    resamples. Besides the columns some 120 MB are held, however many values there are.
    """
    bounds = np.full((2, len(columns)), np.nan)
    sizes = np.array([len(column) for column in columns])
    for n in np.unique(sizes[sizes > 1]).tolist():
        members = np.flatnonzero(sizes == n).tolist()
        means = np.zeros((resamples, len(members)))
        done = 0
        for counts in _drawn(n, seed, resamples):
            into = means[done : done + len(counts)]
            step = max(1, _BLOCK // len(counts))
            for begin in range(0, n, step):
                part = slice(begin, begin + step)
                values = np.stack([columns[k][part] for k in members])
                into += counts[:, part].astype(np.float64) @ values.T
            done += len(counts)
        bounds[:, members] = np.quantile(means / n, [0.025, 0.975], axis=0)
    return [(float(low), float(high)) for low, high in bounds.T]


def _drawn(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.uint8]]:
    """Draw n of n with replacement, `resamples` times; yield how often each came, ``[size, n]``."""
    rng = np.random.default_rng(seed)
    block = max(_BLOCK // n, min(_TOGETHER, _COUNTS // n), 1)
    for start in range(0, resamples, block):
        # That one of n is drawn 256 times, which a byte does not hold, has a chance below 1 / 256!.
        counts = np.zeros((min(block, resamples - start), n), np.uint8)
        for row in counts:
            # The same draws as of 64 bits, in half the time.
            drawn = rng.integers(0, n, size=n, dtype=np.int32 if n < 2**31 else np.int64)
            np.add.at(row, drawn, np.uint8(1))
        yield counts


def _parts(columns: Iterable[NDArray]) -> Iterator[list[tuple[NDArray, int]]]:
    """Yield each column's defined values and its number of NaN, as many at a time as are held."""
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


def _columns(name: str, values: ArrayLike | Iterator[ArrayLike]) -> Iterator[NDArray[np.float64]]:
    """Yield checked float64 columns of a matrix or of an iterator."""
    if isinstance(values, Iterator):
        for column in values:
            yield _checked(name, column, "[sentences]")
    else:
        yield from _checked(name, values, "[sentences, layers]").T


def _checked(name: str, values: ArrayLike, shape: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 + shape.count(","):
        raise InputError(f"{name} must have the shape {shape}, got {array.shape}")
    if np.isinf(array).any():
        raise InputError(f"{name} must be finite or NaN, got an infinity")
    return array
