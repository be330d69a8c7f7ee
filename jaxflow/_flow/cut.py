"""`flow_cut`: the edges that hold the flow between two tokens down.

Statement: the largest flow equals the smallest total capacity of edges whose removal leaves no path
from source to sink. The nodes that the source still reaches once a largest flow is in place give
such a cut, of all smallest ones the nearest to the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow._flow.indices import resolve_index
from jaxflow._flow.table import graph_edges
from jaxflow._flow.words import Edge, edge_words, in_short
from jaxflow._flow.workers import cut_tables
from jaxflow.errors import InputError

__all__ = ["FlowCut", "cut_edges", "flow_cut"]


class FlowCut(NamedTuple):
    """The flow between two tokens and the edges that hold it down.

    Attributes
    ----------
    value
        The flow; the capacities of `edges` sum to it.
    edges
        The minimum cut nearest to the source, each edge ``(layer, query, key)``: the edge by which
        token `query` of attention layer `layer` (0-based) draws on token `key` below it.
    """

    value: float
    edges: tuple[Edge, ...]

    def describe(self, tokens: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return every edge in words, ``layer 4, [CLS] → keys``, in the order of `edges`.

        Layers count from 1 in these words, so ``(3, 0, 2)`` is in layer 4.

        Parameters
        ----------
        tokens
            The words of the sentence, index 0 first; without them a token is ``token 2``. A word
            that occurs twice is told apart by its index.

        Raises
        ------
        InputError
            If `tokens` has no word for a token of the cut.
        """
        return edge_words(self.edges, tokens)

    def summary(self, tokens: Sequence[str] | None = None) -> str:
        """Return the whole cut in one sentence.

        It says so where the cut is the source's whole row, which carries all that a token can send,
        or the sink's whole column of the lowest layer, where flow no longer depends on the source.
        The latter needs `tokens`, all of the sentence's and without padding: the edges alone do
        not tell how many tokens there are. Otherwise it names the edges, those of one token
        together.

        Parameters
        ----------
        tokens
            As for `describe`.

        Raises
        ------
        InputError
            If `tokens` has no word for a token of the cut.

        Examples
        --------
        >>> cut = FlowCut(0.5, ((0, 0, 1), (0, 1, 1), (0, 2, 1)))
        >>> cut.summary(["[CLS]", "keys", "to"])
        'layer 1, everything → keys: flow is at the column sum, independent of the source'
        >>> cut.summary()
        'layer 1, token 0 + token 1 + token 2 → token 1'
        """
        return in_short(self.value, self.edges, tokens)


def flow_cut(
    attention: Any,
    *,
    layer: int,
    source: int,
    sink: int,
    residual: float = 0.5,
    heads: str | int = "mean",
    mask: Any = None,
) -> FlowCut:
    """Return the flow from one token to one input token, and its bottleneck.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``, the attention of one sentence; see `jaxflow.flow`.
    layer
        Attention layer whose output is explained, 0-based; negative ones count from the top.
    source
        Token of that layer.
    sink
        Input token.
    residual, heads, mask
        As for `jaxflow.flow`.

    Returns
    -------
    FlowCut
        The flow's value and the edges of the minimum cut nearest to the source. Between or from
        padded tokens there is no path: 0.0 and no edges.

    Raises
    ------
    InputError
        If an argument is not usable, or the attention has batch axes.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> jaxflow.flow_cut(np.full((2, 1, 2, 2), 0.5), layer=1, source=0, sink=1)
    FlowCut(value=0.5, edges=((0, 0, 1), (1, 0, 1)))
    >>> _.describe(["[CLS]", "keys"])
    ('layer 1, [CLS] → keys', 'layer 2, [CLS] → keys')
    """
    edges, _ = graph_edges(attention, residual, heads, mask)
    if edges.ndim != 3:
        raise InputError(
            "attention must be that of one sentence, [layers, heads, tokens, tokens], got shape "
            f"{np.shape(attention)}"
        )
    depth, n = edges.shape[:2]
    return cut_edges(
        edges,
        resolve_index("layer", layer, depth),
        resolve_index("source", source, n),
        resolve_index("sink", sink, n),
    )


def cut_edges(edges: np.ndarray, layer: int, source: int, sink: int) -> FlowCut:
    """Return the cut on edge weights ``[L, n, n]``, indices from 0."""
    pulls = np.zeros((1, 1, 1, edges.shape[1]))
    pulls[..., sink] = 1.0
    chosen = cut_tables(edges[None], (layer,), (source,), pulls, 1)[0] > 0
    crossing = tuple((int(a), int(b), int(c)) for a, b, c in np.argwhere(chosen))
    return FlowCut(float(edges[chosen].sum()), crossing)
