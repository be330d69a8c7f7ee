"""Build the attention graph as a networkx graph, to draw or to run any graph algorithm on."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsFloat

import numpy as np

from jaxflow.attention import (
    ArrayLike,
    check_attention,
    check_one_sentence,
    check_residual,
    edge_weights,
    refuse_traced,
)

if TYPE_CHECKING:
    import networkx


def attention_graph(
    attention: ArrayLike,
    *,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
) -> networkx.DiGraph:
    """Build the attention graph of one sentence.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``, float32 or float64; see `jaxflow.attention.check_attention`.
    residual
        Share of the residual connection, from 0 to 1.
    heads
        ``"mean"``, ``"max"``, ``"min"`` or the index of one head.
    mask
        ``[n]`` boolean, True at real tokens; padded tokens get no nodes.

    Returns
    -------
    networkx.DiGraph
        Nodes ``(layer, token)``: layer 0 holds the input tokens, layer l what layer l computed. An
        edge ``(l, i) -> (l - 1, j)`` with attribute ``capacity`` wherever token i of layer l draws
        on token j below it; edges of weight 0 are left out.

    Raises
    ------
    InputError
        For an attention that is not usable or has batch axes.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> graph = jaxflow.attention_graph(np.full((2, 1, 2, 2), 0.5))
    >>> graph.number_of_nodes(), graph.edges[(2, 0), (1, 1)]["capacity"]
    (6, 0.25)
    """
    import networkx

    refuse_traced("attention_graph", attention, residual, mask)
    attention, mask = check_attention(attention, mask)
    check_one_sentence(attention)
    edges = edge_weights(
        np.asarray(attention),
        residual=check_residual(residual),
        heads=heads,
        mask=None if mask is None else np.asarray(mask),
        dtype=np.float64,
    )
    layers, n = edges.shape[0], edges.shape[-1]
    tokens = range(n) if mask is None else [int(token) for token in np.flatnonzero(mask)]

    graph = networkx.DiGraph()
    graph.add_nodes_from((layer, token) for layer in range(layers + 1) for token in tokens)
    for layer, query, key in zip(*np.nonzero(edges), strict=True):
        graph.add_edge(
            (int(layer) + 1, int(query)),
            (int(layer), int(key)),
            capacity=float(edges[layer, query, key]),
        )
    return graph
