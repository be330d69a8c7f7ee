"""`saturation`: where flow has met the bound of its sink and no longer says anything else.

Statement: no more can reach input token t than its column of the lowest layer lets in, and no more
can leave a token than the 1 its row holds, so ``flow <= min(1, sum_q A[0][q, t])`` for every layer
and source. A pair on this bound depends neither on its source nor on any layer but the lowest. Once
all sources of a layer are on the bound of a sink, those of every layer above are, too (T1 and the
bound, see docs/flow.md): from that layer on, flow to this sink no longer depends on the source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow._flow.cost import check_cost
from jaxflow._flow.indices import resolve_indices
from jaxflow._flow.table import graph_edges
from jaxflow._flow.workers import flow_tables
from jaxflow.attention import check_layout

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
    onset
        ``[...]`` int: the layer from which flow no longer depends on the source. The lowest of the
        chosen layers, 0-based, such that there and in every chosen layer above it the flow of every
        chosen real source to every real sink meets the bound; L, one past the top, if there is
        none.
    sink_onset
        ``[..., n]`` int: the same for each sink alone; L at padded tokens. The largest over the
        real sinks is `onset`.
    """

    bound: np.ndarray
    reached: np.ndarray
    share: np.ndarray
    onset: np.ndarray
    sink_onset: np.ndarray


def saturation(
    attention: Any,
    *,
    residual: float = 0.5,
    heads: str | int = "mean",
    mask: Any = None,
    sources: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    threads: int | None = None,
    patient: bool = False,
) -> Saturation:
    """Return the column-sum bound on flow, where flow meets it, and from which layer on.

    Parameters
    ----------
    attention, residual, heads, mask, sources, layers, threads, patient
        As for `jaxflow.flow`.

    Returns
    -------
    Saturation
        Bound, pairs that meet it, their share per layer, and the layer from which all do.

    Raises
    ------
    InputError
        If an argument is not usable.

    Notes
    -----
    A pair meets the bound when it is short of it by at most `TOLERANCE` (1e-9), plus, for rows
    that do not quite sum to 1 as in float32, what these can cost: their largest deviation from 1
    times the number of layers.

    `onset` says what it says of the chosen sources and layers alone. With all sources it holds of
    every layer above, chosen or not; a lower layer that was not chosen may have been there first.
    With some sources only, one of them may leave the bound again further up: hence the condition
    on every chosen layer above. Flow may lose its source earlier and short of the bound, where a
    layer between passes everything through one token; that is not what is looked for here.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> result = jaxflow.saturation(np.full((5, 1, 2, 2), 0.5))
    >>> result.share
    array([0. , 0.5, 0.5, 1. , 1. ])
    >>> int(result.onset)
    3
    """
    attention, mask = check_layout(attention, mask)
    depth, n = attention.shape[-4], attention.shape[-1]
    chosen = resolve_indices("sources", sources, n)
    levels = resolve_indices("layers", layers, depth)
    if not patient:
        check_cost(math.prod(attention.shape[:-4]), n, levels, len(chosen))
    edges, real = graph_edges(attention, residual, heads, mask, threads)
    flows = flow_tables(edges, levels, chosen, threads)
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
    # All sources that are real, of which there must be one.
    met = (reached.sum(-2) == pairs.sum(-2)) & pairs.any(-2)
    sink_onset = _onset(met, np.array(levels), depth)
    onset = np.where(real, sink_onset, 0).max(-1)
    return Saturation(bound, reached, share, np.where(count[..., 0] > 0, onset, depth), sink_onset)


def _onset(met: np.ndarray, levels: np.ndarray, depth: int) -> np.ndarray:
    """Return the lowest of `levels` from which ``met[..., L', n]`` holds throughout, or `depth`."""
    downward = np.argsort(-levels)
    lasting = np.logical_and.accumulate(met[..., downward, :], axis=-2)
    # Levels may come twice and in any order: the least one, not how many there are.
    return np.where(lasting, levels[downward][:, None], depth).min(-2)
