"""Edge weights of many sentences in one reading: checked, heads fused, residual added.

Statement: the same numbers, to the last bit, as `jaxflow.attention.edge_weights` gives, which reads
and writes the attention several times over. For a large batch that would cost as much as its flows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["weigh"]


@njit(nogil=True, fastmath={"reassoc"})
def _is_sound(row: np.ndarray, tolerance: float) -> bool:
    """Say whether a query's row is non-negative and sums to 1; NaN and infinity are neither."""
    total, below = 0.0, 0
    for key in range(len(row)):
        total += row[key]
        below += row[key] < 0
    return below == 0 and abs(total - 1.0) <= tolerance


@njit(nogil=True, cache=True)
def weigh(
    attention: np.ndarray,
    mask: np.ndarray,
    first: int,
    last: int,
    residual: float,
    tolerance: float,
    edges: np.ndarray,
) -> bool:
    """Write the weights of ``[B, L, H, n, n]`` to `edges` ``[B, L, n, n]``.

    The heads from `first` to before `last` are averaged. `mask` is ``[B, n]``, or ``[0, n]`` where
    all tokens are real. Returns False, the edges unfinished, at a row that is not sound or holds
    anything at a padded key.
    """
    batch, depth, heads, n = attention.shape[:4]
    masked = len(mask) > 0
    for b in range(batch):
        for layer in range(depth):
            for query in range(n):
                row = edges[b, layer, query]
                row[:] = 0.0
                if masked and not mask[b, query]:
                    continue
                for head in range(heads):
                    weights = attention[b, layer, head, query]
                    if not _is_sound(weights, tolerance):
                        return False
                    if masked:
                        for key in range(n):
                            if not mask[b, key] and weights[key] != 0.0:
                                return False
                    if first <= head < last:
                        for key in range(n):
                            row[key] += weights[key]
                for key in range(n):
                    row[key] = (1.0 - residual) * (row[key] / (last - first))
                row[query] += residual
    return True
