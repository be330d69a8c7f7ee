"""`saturation`: where flow has met the bound of its sink and no longer says anything else.

Statement: no more can reach input token t than its column of the lowest layer lets in, and no more
can leave a token than the 1 its row holds, so ``flow <= min(1, sum_q A[0][q, t])`` for every layer
and source. A pair on this bound depends neither on its source nor on any layer but the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow.flow.indices import resolve_indices
from jaxflow.flow.table import graph_edges
from jaxflow.flow.workers import flow_tables

__all__ = ["TOLERANCE", "Saturation", "saturation"]

TOLERANCE = 1e-9


class Saturation(NamedTuple):
    """How much of a flow table sits on the bound of its sinks.

    Attributes
    ----------
    bound
        ``[..., n]`` float64: ``min(1, sum_q A[0][q, t])``, 0 at padded tokens.
    reached
        ``[..., L', S, n]`` bool: whether the pair's flow meets the bound; False at padded tokens.
    share
        ``[..., L']`` float64: the share of the pairs of real tokens that do, NaN without any.
    """

    bound: np.ndarray
    reached: np.ndarray
    share: np.ndarray


def saturation(
    attention: Any,
    *,
    residual: float = 0.5,
    heads: str | int = "mean",
    mask: Any = None,
    sources: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    threads: int | None = None,
) -> Saturation:
    """Return the column-sum bound on flow, where flow meets it, and in which share of pairs.

    Parameters
    ----------
    attention, residual, heads, mask, sources, layers, threads
        As for `jaxflow.flow`.

    Returns
    -------
    Saturation
        Bound, pairs that meet it and their share per layer.

    Raises
    ------
    InputError
        If an argument is not usable.

    Notes
    -----
    A pair meets the bound when it is short of it by at most `TOLERANCE` (1e-9), plus, for rows
    that do not quite sum to 1 as in float32, what these can cost: their largest deviation from 1
    times the number of layers.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> jaxflow.saturation(np.full((3, 1, 2, 2), 0.5), sources=0).share
    array([0. , 0.5, 0.5])
    """
    edges, real = graph_edges(attention, residual, heads, mask)
    depth, n = edges.shape[-3], edges.shape[-1]
    chosen = resolve_indices("sources", sources, n)
    flows = flow_tables(edges, resolve_indices("layers", layers, depth), chosen, threads)
    if real is None:
        real = np.ones((*edges.shape[:-3], n), bool)

    bound = np.minimum(1.0, edges[..., 0, :, :].sum(-2))
    deviation = np.where(real[..., None, :], np.abs(edges.sum(-1) - 1), 0).max((-2, -1))
    slack = TOLERANCE + depth * deviation
    pairs = (real[..., list(chosen), None] & real[..., None, :])[..., None, :, :]
    least = (bound - slack[..., None])[..., None, None, :]
    reached = (flows >= least) & pairs
    count = pairs.sum((-2, -1))
    with np.errstate(invalid="ignore"):
        share = reached.sum((-2, -1)) / count
    return Saturation(bound, reached, share)
