"""Compute flow without numba: by networkx, and by SciPy's integer maximum flow.

`flow_by_definition` is the definition, against which the tests compare.
"""

from __future__ import annotations

import warnings

import numpy as np

WHOLE = 2**30  # the largest flow in units: what SciPy's 32-bit numbers hold, with a margin
EXACT = 1e-9


def flow_by_definition(edges: np.ndarray, layer: int, source: int, sink: int) -> float:
    """Return the maximum flow from a token of `layer` (0-based) to an input token, by networkx.

    Token i of layer l and token j of layer l - 1 are joined by an edge that carries at most
    ``edges[l][i, j]``; the flow is the largest amount that can be sent along all paths at once
    without exceeding any edge. `edges` are ``[L, n, n]``.
    """
    import networkx
    from networkx.algorithms.flow import preflow_push

    graph = networkx.DiGraph()
    graph.add_nodes_from([(layer + 1, source), (0, sink)])
    for level, query, key in np.argwhere(edges[: layer + 1] > 0).tolist():
        weight = float(edges[level, query, key])
        graph.add_edge((level + 1, query), (level, key), capacity=weight)
    start, end = (layer + 1, source), (0, sink)
    return float(networkx.maximum_flow_value(graph, start, end, flow_func=preflow_push))


def flow_tables_scaled(
    weights: np.ndarray, layers: tuple[int, ...], sources: tuple[int, ...], reason: Exception
) -> np.ndarray:
    """Return the flows ``[B, L', S, n]`` on ``[B, L, n, n]``; `reason` is why numba is not used."""
    warnings.warn(
        f"numba cannot be used ({reason}): flow is computed by SciPy, some hundred times slower "
        "and with an error of up to 1e-9; 'pip install numba' is the remedy",
        RuntimeWarning,
        stacklevel=2,
    )
    depth, n = max(layers) + 1, weights.shape[-1]
    rows = [[flow_rows_scaled(edges[:depth], source) for source in sources] for edges in weights]
    found = np.array(rows).reshape(-1, len(sources), depth, n)
    return found[:, :, list(layers)].swapaxes(1, 2)


def flow_rows_scaled(edges: np.ndarray, source: int) -> np.ndarray:
    """Return the flow from one token of every layer to every input token by SciPy, ``[L, n]``.

    `edges` are ``[L, n, n]`` float64 without padding. With capacities rounded down to multiples of
    u, every edge of a cut loses less than u, so an integer maximum flow leaves a largest flow of
    less than ``m u`` on the residual graph for the m edges of the graph. No residual capacity above
    that can matter: limited to it, the residual graph is an integer problem again, its unit smaller
    by a factor ``m / 2**30``. Two rounds leave less than ``m**2 / 2**60``, 1e-9 up to 6 layers of
    75 tokens, and in practice some 1e-13.

    It is a hundred times slower than the compiled kernel, but the kernel takes half a minute to
    compile on a new installation, and one short sentence takes this some 20 milliseconds.
    """
    depth, n = edges.shape[:2]
    rows = np.zeros((depth, n))
    rows[0] = edges[0, source]  # one edge
    if depth > 1:  # paths of two edges, each to itself
        rows[1] = np.minimum(edges[1, source][:, None], edges[0]).sum(0)
    for layer in range(2, depth):
        graph = _Graph(edges[: layer + 1], source)
        flows = np.array([graph.flow_to(sink) for sink in range(n)])
        # Where a flow is as large as the source's row or the sink's column allows, it is that sum
        # to the last bit: tokens that are equal must not be ranked by rounding.
        bound = np.minimum(edges[layer, source].sum(), edges[0].sum(0))
        rows[layer] = np.where(flows > bound - EXACT, bound, flows)
    return rows


class _Graph:
    """Layers of edges as SciPy's sparse matrix, every edge with its reverse.

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
