"""Find the minimum cut between two tokens, and describe it in words.

The largest flow equals the smallest total capacity of edges whose removal leaves no path from
source to sink. The nodes that the source still reaches in the residual network of a largest flow
give such a cut, of all smallest ones the nearest to the source.

In the words, layers count from 1, the lowest; everywhere else they count from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np

from jaxflow._flow.table import graph_edges
from jaxflow._flow.threads import cut_tables
from jaxflow.attention import (
    ArrayLike,
    check_layout,
    check_one_sentence,
    refuse_traced,
    resolve_index,
    resolve_token,
)
from jaxflow.errors import InputError

Edge = tuple[int, int, int]

# An edge that rounding leaves out of a row of float32 carries less than this.
ROUNDING = 1e-6


class FlowCut(NamedTuple):
    """The flow between two tokens and the edges of the minimum cut.

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
            that occurs twice is followed by its index.

        Raises
        ------
        InputError
            If `tokens` has no word for a token of the cut.
        """
        names = _names(self.edges, tokens)
        return tuple(f"layer {layer + 1}, {names[a]} → {names[b]}" for layer, a, b in self.edges)

    def summary(self, tokens: Sequence[str] | None = None) -> str:
        """Return the whole cut in one sentence.

        It states where the cut is the source's whole row, which carries all that a token can send,
        or the sink's whole column of the lowest layer, where flow no longer depends on the source.
        The latter needs `tokens`, all of the sentence's and without padding: the edges alone do
        not determine the number of tokens. Otherwise it names the edges, those of one token
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
        names = _names(self.edges, tokens)
        if not self.edges:
            return "no path, no flow"
        layers, queries, keys = (set(part) for part in zip(*self.edges, strict=True))
        if len(self.edges) > 1 and len(layers) == 1:
            (layer,) = layers
            # The lowest layer's columns are the only ones that end in the sink.
            if layer == 0 and len(keys) == 1 and tokens is not None and len(queries) == len(tokens):
                return (
                    f"layer 1, everything → {names[self.edges[0][2]]}: flow is at the column sum, "
                    "independent of the source"
                )
            # Rows sum to 1: edges of one token that do so too are all it has.
            if len(queries) == 1 and self.value >= 1 - ROUNDING:
                source = f"layer {layer + 1}, {names[self.edges[0][1]]}"
                return f"{source} → everything: flow is 1, all that one token can send"
        parts = []
        for layer in sorted(layers, reverse=True):
            pairs = [(a, b) for at, a, b in self.edges if at == layer]
            parts += [f"layer {layer + 1}, {part}" for part in _bundles(pairs, names)]
        return "; ".join(parts)


def flow_cut(
    attention: ArrayLike,
    *,
    layer: int,
    source: int,
    sink: int,
    residual: SupportsFloat = 0.5,
    heads: str | int = "mean",
    mask: ArrayLike | None = None,
) -> FlowCut:
    """Return the flow from one token to one input token, and its minimum cut.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``, the attention of one sentence; see `jaxflow.flow`.
    layer
        Attention layer whose output is explained, 0-based; negative ones count from the top.
    source
        Token of that layer; with a mask, negative ones count from the last real token.
    sink
        Input token, likewise.
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
    refuse_traced("flow_cut", attention, residual, mask)
    attention, mask = check_layout(attention, mask)
    check_one_sentence(attention)
    edges, mask = graph_edges(attention, residual, heads, mask)
    depth, n = edges.shape[:2]
    return cut_edges(
        edges,
        resolve_index("layer", layer, depth),
        resolve_token("source", source, n, mask),
        resolve_token("sink", sink, n, mask),
    )


def cut_edges(edges: np.ndarray, layer: int, source: int, sink: int) -> FlowCut:
    """Return the cut on edge weights ``[L, n, n]``, indices from 0."""
    pulls = np.zeros((1, 1, 1, edges.shape[1]))
    pulls[..., sink] = 1.0
    chosen = cut_tables(edges[None], (layer,), (source,), pulls, 1)[0] > 0
    crossing = tuple((int(a), int(b), int(c)) for a, b, c in np.argwhere(chosen))
    return FlowCut(float(edges[chosen].sum()), crossing)


def _bundles(pairs: Sequence[tuple[int, int]], names: dict[int, str]) -> list[str]:
    """Join edges that share a query, or those that share a key, whichever gives fewer phrases."""
    by_query: dict[int, list[str]] = {}
    by_key: dict[int, list[str]] = {}
    for query, key in pairs:
        by_query.setdefault(query, []).append(names[key])
        by_key.setdefault(key, []).append(names[query])
    if len(by_query) <= len(by_key):
        return [f"{names[query]} → {' + '.join(ends)}" for query, ends in by_query.items()]
    return [f"{' + '.join(starts)} → {names[key]}" for key, starts in by_key.items()]


def _names(edges: Sequence[Edge], tokens: Sequence[str] | None) -> dict[int, str]:
    """Return a name for every token of the edges; one that occurs twice is given its index."""
    used = {token for _, *pair in edges for token in pair}
    if tokens is None:
        return {token: f"token {token}" for token in used}
    if isinstance(tokens, str) or len(tokens) <= max(used, default=-1):
        raise InputError(
            f"tokens must be a sequence of words, one for each token up to index "
            f"{max(used, default=0)}, got {tokens!r}"
        )
    count = Counter(tokens)
    return {
        token: tokens[token] if count[tokens[token]] == 1 else f"{tokens[token]} (token {token})"
        for token in used
    }
