"""Bootstrap intervals of means over sentences, many columns at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "mean_intervals"]

#: Bootstrap resamples behind every interval.
RESAMPLES = 2000

# Indices held at once: 4 million, 32 MB.
_BLOCK = 4_000_000


def mean_intervals(
    values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES
) -> list[tuple[float, float]]:
    """95 % percentile bootstrap interval of the mean of each column's defined values.

    Parameters
    ----------
    values
        ``[S, K]``, NaN where undefined.
    seed
        A column's interval depends on its own values and on this only, not on its neighbours.
    resamples
        How often the sentences are drawn anew, with replacement.

    Returns
    -------
    list of (low, high)
        K of them; NaN where fewer than two values are defined.
    """
    bounds = np.full((2, values.shape[1]), np.nan)
    # Columns with the same sentences defined share their resamples: most tables need one set.
    patterns, group_of = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for group in range(patterns.shape[1]):
        members = np.flatnonzero(group_of.ravel() == group)
        bounds[:, members] = _percentiles(
            values[np.ix_(patterns[:, group], members)], seed, resamples
        )
    return [(float(low), float(high)) for low, high in bounds.T]


def _percentiles(values: NDArray, seed: int, resamples: int) -> NDArray[np.float64]:
    """Percentile bootstrap of the column means of ``[n, K]`` without NaN: ``[2, K]``."""
    n, count = values.shape
    if n < 2:
        return np.full((2, count), np.nan)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, count))
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        # How often each sentence was drawn: one matrix product then serves all the columns.
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = weights @ values / n
    return np.quantile(means, [0.025, 0.975], axis=0)
