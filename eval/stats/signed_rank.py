"""Wilcoxon's signed-rank test with Pratt's zeros, exact for few differences."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["signed_rank"]

# Up to this many non-zero differences the signed-rank distribution is summed exactly.
_EXACT = 50


def signed_rank(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Test whether differences ``[n]``, none of them NaN, are as often and as far above zero.

    What is computed is said by `jaxflow.eval.stats.statistics.paired_test`.

    Returns
    -------
    tuple of float
        Two-sided p-value, NaN for fewer than two differences, and rank-biserial correlation.
    """
    from scipy.special import ndtr
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(difference))[difference != 0]
    positive = difference[difference != 0] > 0
    total, above = float(ranks.sum()), float(ranks[positive].sum())
    if total == 0:
        return (1.0 if len(difference) > 1 else math.nan), (0.0 if len(difference) else math.nan)
    if len(ranks) <= _EXACT:
        p = _exact_tails(ranks, above)
    else:
        p = 2 * float(ndtr(-abs(above - total / 2) / math.sqrt(float((ranks**2).sum()) / 4)))
    return (min(p, 1.0) if len(difference) > 1 else math.nan), (2 * above - total) / total


def _exact_tails(ranks: NDArray, above: float) -> float:
    """Probability of a sum of randomly chosen ranks at least as far from its mean as `above`."""
    doubled = np.round(2 * ranks).astype(int)  # average ranks are halves at the finest
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1
    for rank in doubled:
        with_rank = np.zeros_like(chance)
        with_rank[rank:] = chance[: len(chance) - rank]
        chance = (chance + with_rank) / 2
    # The distribution is symmetric, so the other tail is as heavy.
    nearer = round(2 * above)
    return 2 * float(chance[: min(nearer, len(chance) - 1 - nearer) + 1].sum())
