"""Flow without a compiler: SciPy's integer maximum flow, run once and once more on what is left.

Statement: with capacities rounded down to multiples of u, every edge of a cut loses less than u,
so what an integer maximum flow leaves behind, the largest flow on the residual graph, is less than
``m u`` for the m edges of the graph. No residual capacity above that can matter: the residual graph
cut down to it is an integer problem again, its unit smaller by a factor ``m / 2**30``. Two rounds
leave less than ``m**2 / 2**60``, 1e-9 up to 6 layers of 75 tokens, and in practice some 1e-13.

It is a hundred times slower than the compiled kernel, but the kernel takes half a minute to compile
on a new installation, and one short sentence takes this some 20 milliseconds.
"""

from __future__ import annotations

import numpy as np

__all__ = ["flow_rows_scaled"]

WHOLE = 2**30  # the largest flow in units: what SciPy's 32-bit numbers hold, with room to spare
EXACT = 1e-9


def flow_rows_scaled(edges: np.ndarray, source: int) -> np.ndarray:
    """Return the flow from one token of every layer to every input token.

    Parameters
    ----------
    edges
        ``[L, n, n]`` float64, the weights of `jaxflow.attention.edge_weights` without padding.
    source
        The token.

    Returns
    -------
    numpy.ndarray
        ``[L, n]`` float64, within 1e-9 of ``jaxflow.flow(..., sources=source)[:, 0]``.
    """
    depth, n = edges.shape[:2]
    rows = np.zeros((depth, n))
    rows[0] = edges[0, source]  # one edge
    if depth > 1:  # paths of two edges, each to itself
        rows[1] = np.minimum(edges[1, source][:, None], edges[0]).sum(0)
    for layer in range(2, depth):
        graph = _Graph(edges[: layer + 1], source)
        flows = np.array([graph.flow_to(sink) for sink in range(n)])
        # Where a flow is as large as the source's row or the sink's column lets it be it is that
        # sum, to the last bit: tokens that are on a par must not be ranked by rounding.
        bound = np.minimum(edges[layer, source].sum(), edges[0].sum(0))
        rows[layer] = np.where(flows > bound - EXACT, bound, flows)
    return rows


class _Graph:
    """Layers of edges as SciPy's sparse matrix, every edge with its way back.

    Node ``level * n + token``: level 0 is the input, the source the last level's.
    """

    def __init__(self, edges: np.ndarray, source: int) -> None:
        depth, n = edges.shape[:2]
        level, query, key = np.indices(edges.shape, np.int32).reshape(3, -1)
        above, below = (level + 1) * n + query, level * n + key
        tails, heads = np.concatenate([above, below]), np.concatenate([below, above])
        order = np.lexsort((heads, tails))
        self.source = depth * n + source
        self.count = edges.size
        self.shape = ((depth + 1) * n,) * 2
        self.starts = np.searchsorted(tails[order], np.arange(self.shape[0] + 1)).astype(np.int32)
        self.heads = heads[order]
        self.capacities = np.concatenate([edges.ravel(), np.zeros(edges.size)])[order]

    def flow_to(self, sink: int) -> float:
        """Return the flow from the source to an input token."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        left, total = self.capacities, 0.0
        most = 1.0  # an upper bound on what is still to be found; a row sums to 1
        while most > EXACT:
            unit = most / WHOLE
            whole = np.minimum(left / unit, WHOLE).astype(np.int32)
            graph = csr_array((whole, self.heads, self.starts), shape=self.shape)
            found = maximum_flow(graph, self.source, sink)
            total += float(found.flow_value) * unit
            left = left - found.flow.data * unit
            most = self.count * unit
        return total
