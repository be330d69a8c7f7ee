"""A cut in words: one phrase an edge, and one sentence for what kind of bottleneck it is.

Statement: two cuts mean something by themselves. The source's whole row weighs 1, all that a token
can send. The sink's whole column of the lowest layer weighs all that can ever arrive there, so a
flow that it holds down is the same from every source and through any layers in between.

Layers count from 1 here, the lowest, as people count them; everywhere else they count from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jaxflow.errors import InputError

__all__ = ["Edge", "edge_words", "in_short"]

Edge = tuple[int, int, int]

# An edge that rounding leaves out of a row of float32 carries less than this.
ROUNDING = 1e-6


def edge_words(edges: Sequence[Edge], tokens: Sequence[str] | None) -> tuple[str, ...]:
    """Return ``layer 4, [CLS] → keys`` for every edge.

    Raises
    ------
    InputError
        If `tokens` has no word for one of the tokens.
    """
    names = _names(edges, tokens)
    return tuple(f"layer {layer + 1}, {names[a]} → {names[b]}" for layer, a, b in edges)


def in_short(value: float, edges: Sequence[Edge], tokens: Sequence[str] | None) -> str:
    """Return one sentence for the whole cut.

    Raises
    ------
    InputError
        If `tokens` has no word for one of the tokens.
    """
    names = _names(edges, tokens)
    if not edges:
        return "no path, no flow"
    layers, queries, keys = (set(part) for part in zip(*edges, strict=True))
    if len(edges) > 1 and len(layers) == 1:
        (layer,) = layers
        # The lowest layer's columns are the only ones that end in the sink.
        if layer == 0 and len(keys) == 1 and tokens is not None and len(queries) == len(tokens):
            return (
                f"layer 1, everything → {names[edges[0][2]]}: flow is at the column sum, "
                "independent of the source"
            )
        # Rows sum to 1: edges of one token that do so too are all it has.
        if len(queries) == 1 and value >= 1 - ROUNDING:
            return (
                f"layer {layer + 1}, {names[edges[0][1]]} → everything: flow is 1, all that one "
                "token can send"
            )
    parts = []
    for layer in sorted(layers, reverse=True):
        pairs = [(a, b) for at, a, b in edges if at == layer]
        parts += [f"layer {layer + 1}, {part}" for part in _bundles(pairs, names)]
    return "; ".join(parts)


def _bundles(pairs: Sequence[tuple[int, int]], names: dict[int, str]) -> list[str]:
    """Write edges that share a query, or those that share a key, as one: what is fewer."""
    by_query: dict[int, list[str]] = {}
    by_key: dict[int, list[str]] = {}
    for query, key in pairs:
        by_query.setdefault(query, []).append(names[key])
        by_key.setdefault(key, []).append(names[query])
    if len(by_query) <= len(by_key):
        return [f"{names[query]} → {' + '.join(ends)}" for query, ends in by_query.items()]
    return [f"{' + '.join(starts)} → {names[key]}" for key, starts in by_key.items()]


def _names(edges: Sequence[Edge], tokens: Sequence[str] | None) -> dict[int, str]:
    """Return a name for every token of the edges; a word that is there twice says which it is."""
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
