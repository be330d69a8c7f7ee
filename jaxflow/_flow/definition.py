"""What attention flow is, in ten lines; everything else here computes the same number faster.

Statement: token i of layer l and token j of layer l - 1 are joined by an edge that carries at most
``A[l][i, j]``; the flow from (l, source) to input token (0, sink) is the largest amount that can be
sent along all paths at once without overfilling an edge.
"""

from __future__ import annotations

import numpy as np

__all__ = ["flow_by_definition"]


def flow_by_definition(edges: np.ndarray, layer: int, source: int, sink: int) -> float:
    """Return the maximum flow from one token of one layer to one input token, by networkx.

    Parameters
    ----------
    edges
        ``[L, n, n]``, the weights of `jaxflow.attention.edge_weights`.
    layer
        0-based: 0 is the lowest attention layer.
    source
        Query token of that layer.
    sink
        Input token.

    Returns
    -------
    float
        The flow's value, by push-relabel in float64.
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
