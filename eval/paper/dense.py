"""The rank correlation of the paper's Table 3, as its authors computed it.

Equal values share a rank and the next value gets the next whole number (dense ranks), and these are
put into the formula that holds for ranks without ties. With ties the result is no correlation: two
constant vectors get 1, and every tie moves the others' ranks. It is here to reproduce that table;
`jaxflow.spearman` is what to use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["dense_ranks", "dense_spearman"]


def dense_spearman(a: ArrayLike, b: ArrayLike, counted: ArrayLike) -> NDArray[np.float64]:
    r"""Tie-free formula over dense ranks, over the last axis.

    Parameters
    ----------
    a, b
        ``[..., n]``; batch axes broadcast against each other.
    counted
        ``[..., n]`` boolean, True at the tokens that count.

    Returns
    -------
    array
        ``[...]``; NaN where fewer than two tokens count.

    Notes
    -----
    .. math:: 1 - \frac{6 \sum_t (r_t - s_t)^2}{n (n^2 - 1)}

    with the dense ranks r and s. Without ties it is Spearman's correlation.

    Examples
    --------
    >>> float(dense_spearman([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [True, True, True]))
    1.0
    """
    a, b, counted = np.broadcast_arrays(np.asarray(a), np.asarray(b), np.asarray(counted, bool))
    result = np.full(a.shape[:-1], np.nan)
    for place in np.ndindex(result.shape):
        here = counted[place]
        n = int(here.sum())
        if n > 1:
            gaps = dense_ranks(a[place][here]) - dense_ranks(b[place][here])
            result[place] = 1 - 6 * float((gaps**2).sum()) / (n * (n**2 - 1))
    return result


def dense_ranks(values: NDArray) -> NDArray[np.integer]:
    """Ranks from 1 of ``[n]``; equal values share one, and no number is left out after them."""
    return np.unique(values, return_inverse=True)[1].ravel() + 1
