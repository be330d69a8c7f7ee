"""Shares of cases with their intervals: how often something holds, ties counted apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Z95", "Share", "share_of", "wilson"]

#: The normal distribution's two-sided 95 % quantile.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """How often something holds.

    Attributes
    ----------
    share
        Share of the n cases; NaN if there is none.
    ci95
        Wilson's 95 % interval, for n independent cases; NaN if there is none.
    n
        Cases that were decided.
    ties
        Cases left out, because neither side weighs more.
    """

    share: float
    ci95: tuple[float, float]
    n: int
    ties: int


def wilson(successes: int, n: int) -> tuple[float, float]:
    r"""Wilson's 95 % interval of a share; NaN if n is 0.

    Notes
    -----
    The shares :math:`p` with :math:`|\hat p - p| \le z \sqrt{p (1 - p) / n}` (Wilson 1927). Unlike
    the normal interval it is of use at 0 and 1 too.

    Examples
    --------
    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if n == 0:
        return math.nan, math.nan
    share, weight = successes / n, Z95**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def share_of(holds: ArrayLike, decided: ArrayLike) -> Share:
    """Count how often something holds where it is decided.

    Parameters
    ----------
    holds, decided
        ``[S]`` boolean each; the cases that are not decided are the ties.
    """
    holds, decided = np.asarray(holds, bool), np.asarray(decided, bool)
    n, successes = int(decided.sum()), int((holds & decided).sum())
    share = successes / n if n else math.nan
    return Share(share, wilson(successes, n), n, int((~decided).sum()))
