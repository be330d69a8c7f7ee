r"""Flow of single heads: one head in the layer looked at, all layers below it averaged.

The counterpart of `jaxflow.head_rollout` (appendix A.1 of the paper). With
:math:`A^{(l)}` the averaged and :math:`A^{(l, k)}` head k's edges of layer l, both with the
residual connection, head k's flow after layer l is the maximum flow in the graph of
:math:`A^{(1)}, \ldots, A^{(l - 1)}, A^{(l, k)}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.cost import check_cost
from jaxflow._flow.indices import resolve_indices
from jaxflow._flow.table import flow, graph_edges
from jaxflow.attention import check_layout, check_residual, mask_tokens

__all__ = ["flow_of_tops", "head_flow"]


def head_flow(
    attention: Any,
    *,
    residual: float = 0.5,
    mask: Any = None,
    sources: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    threads: int | None = None,
    patient: bool = False,
) -> NDArray[np.float64]:
    """Attention flow of single heads: one head on top, lower layers averaged over heads.

    Parameters
    ----------
    attention
        ``[..., L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    mask
        ``[..., n]`` boolean, True at real tokens.
    sources, layers
        As in `jaxflow.flow`: an int, a sequence or None for all.
    threads
        None takes all cores.
    patient
        As in `jaxflow.flow`.

    Returns
    -------
    ndarray
        float64 ``[..., L', H, S, n]``: maximum flow values. With one head it is `jaxflow.flow`.

    Raises
    ------
    InputError
        For an argument that is not usable.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020, appendix A.1.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> attention = np.array([[[[1, 0], [0, 1]], [[0, 1], [1, 0]]]], np.float64)
    >>> jaxflow.head_flow(attention, sources=0)[0, :, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    checked, real = check_layout(attention, mask)
    depth, count, n = checked.shape[-4:-1]
    levels = resolve_indices("layers", layers, depth)
    chosen = resolve_indices("sources", sources, n)
    if not patient:
        check_cost(math.prod(checked.shape[:-4]) * count, n, levels, len(chosen))
    residual = float(check_residual(residual))
    below, _ = graph_edges(attention, residual, "mean", mask, threads)
    heads = np.asarray(checked, np.float64)
    tops = (1 - residual) * heads + residual * np.eye(heads.shape[-1])
    real = None if real is None else np.asarray(real)
    tops = np.asarray(mask_tokens(tops, real, heads=True))
    found = flow_of_tops(
        np.moveaxis(tops, -3, -4),  # [..., H, L, n, n]
        np.broadcast_to(below[..., None, :, :, :], np.moveaxis(tops, -3, -4).shape),
        mask=None if real is None else real[..., None, :],
        sources=chosen,
        layers=levels,
        threads=threads,
        patient=True,
    )
    return np.moveaxis(found, -4, -3)


def flow_of_tops(
    tops: NDArray[np.floating],
    below: NDArray[np.floating],
    *,
    mask: NDArray[np.bool_] | None = None,
    sources: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    threads: int | None = None,
    patient: bool = False,
) -> NDArray[np.float64]:
    """Return flow where the layer looked at has other edges than it has as a layer below.

    Parameters
    ----------
    tops
        ``[..., L, n, n]`` capacities with rows that sum to 1: of a layer that is looked at.
    below
        The same shape: of a layer with others above it.
    mask
        ``[..., n]`` boolean, to broadcast.
    sources, layers, threads, patient
        As in `jaxflow.flow`.

    Returns
    -------
    ndarray
        float64 ``[..., L', S, n]``.
    """
    depth, n = tops.shape[-3], tops.shape[-1]
    real = None if mask is None else np.broadcast_to(mask, (*tops.shape[:-3], n))
    parts = []
    for layer in resolve_indices("layers", layers, depth):
        graph = np.concatenate(
            [below[..., :layer, :, :], tops[..., layer : layer + 1, :, :]], axis=-3
        )
        parts.append(
            flow(
                graph[..., None, :, :],
                residual=0,
                mask=real,
                sources=sources,
                layers=int(layer),
                threads=threads,
                patient=patient,
            )
        )
    return np.concatenate(parts, axis=-3)
