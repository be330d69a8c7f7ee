"""Bootstrap intervals of means over sentences, many columns at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "mean_intervals"]

#: Bootstrap resamples behind every interval.
RESAMPLES = 2000

# Counts multiplied at once, as float64: 32 MB.
_BLOCK = 4_000_000
# Resamples of more sentences than that are drawn many at a time all the same, because all columns
# are read again for each block of them: so many, if their counts, a byte each, take no more.
_TOGETHER, _COUNTS = 100, 64_000_000


def mean_intervals(
    columns: Sequence[NDArray[np.float64]], seed: int, resamples: int = RESAMPLES
) -> list[tuple[float, float]]:
    """95 % percentile bootstrap interval of the mean of each column.

    Parameters
    ----------
    columns
        float64 ``[n]`` each, without NaN; n may differ.
    seed
        A column's interval depends on its own values and on this only, not on its neighbours.
    resamples
        How often the sentences are drawn anew, with replacement.

    Returns
    -------
    list of (low, high)
        One of each column; NaN where it has fewer than two values.

    Notes
    -----
    What is drawn depends on the seed and on n alone, so columns of one n share their resamples.
    Besides the columns some 120 MB are held, however many values there are.
    """
    bounds = np.full((2, len(columns)), np.nan)
    sizes = np.array([len(column) for column in columns])
    for n in np.unique(sizes[sizes > 1]).tolist():
        members = np.flatnonzero(sizes == n).tolist()
        bounds[:, members] = _percentiles([columns[k] for k in members], n, seed, resamples)
    return [(float(low), float(high)) for low, high in bounds.T]


def _percentiles(
    columns: Sequence[NDArray[np.float64]], n: int, seed: int, resamples: int
) -> NDArray[np.float64]:
    """Percentile bootstrap of the means of K columns of n values: ``[2, K]``."""
    means = np.zeros((resamples, len(columns)))
    done = 0
    for counts in _drawn(n, seed, resamples):
        into = means[done : done + len(counts)]
        # One matrix product serves all the columns.
        step = max(1, _BLOCK // len(counts))
        for begin in range(0, n, step):
            part = slice(begin, begin + step)
            values = np.stack([column[part] for column in columns])
            into += counts[:, part].astype(np.float64) @ values.T
        done += len(counts)
    return np.quantile(means / n, [0.025, 0.975], axis=0)


def _drawn(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.uint8]]:
    """Draw n of n with replacement, again and again; yield how often each came, ``[size, n]``."""
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
