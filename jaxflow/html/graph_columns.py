"""The flow graph as columns of numbers: one row for each node, each edge, each cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxflow.html.compact import Edges
from jaxflow.html.content import Content
from jaxflow.html.look import integers
from jaxflow.html.text import short, visible

__all__ = ["LINES", "cut_columns", "edge_columns", "node_columns"]

WIDEST = 7.0  # pixels of an edge of weight 1
THINNEST = 0.4
LINE, LINES = 110, 3  # characters and lines of text on a cut
TOOLTIP = 160  # characters of it beside the pointer
NAME = 28  # characters of a token in it


def node_columns(content: Content) -> dict[str, Any]:
    """Return one row for each node, level by level from the input up, tokens in their order.

    Columns ``index``, ``level`` (0 are the input tokens), ``token``, ``flow`` (from the token
    explained; NaN where it is not worked out) and ``words``, the cut in one sentence.
    """
    depth, n = content.edges.shape[:2]
    level, token = (axis.ravel() for axis in np.indices((depth + 1, n)))
    nodes = list(zip(level.tolist(), token.tolist(), strict=True))
    values = [content.cuts[node].value if node in content.cuts else np.nan for node in nodes]
    return {
        "index": np.arange(level.size, dtype=np.int32),
        "level": integers(level),
        "token": integers(token),
        "flow": np.array(values, np.float32),
        "words": [short(_words(content, node), TOOLTIP) for node in nodes],
    }


def _words(content: Content, node: tuple[int, int]) -> str:
    """Return the cut in one sentence."""
    level, token = node
    if node not in content.cuts:
        return ""
    cut, n = content.cuts[node], len(content.tokens)
    if level and n > 1 and cut.edges == tuple((level, query, token) for query in range(n)):
        name = short(visible(content.tokens[token]), NAME)
        return f"layer {level + 1}, everything → {name}: flow is all that arrives there"
    return visible(cut.summary([short(visible(word), NAME) for word in content.tokens]))


def edge_columns(edges: Edges, n: int) -> dict[str, np.ndarray]:
    """Return one row for each edge kept.

    Columns ``start`` and ``end``, both nodes, ``weight``, and ``width`` in pixels, at rest and
    ``pointed`` at.
    """
    weight = np.round(edges.weight, 5).astype(np.float32)
    width = np.round(WIDEST * weight, 1).astype(np.float32)
    return {
        "start": ((edges.layer + 1) * n + edges.query).astype(np.int32),
        "end": (edges.layer * n + edges.key).astype(np.int32),
        "weight": weight,
        "width": np.maximum(THINNEST, width),
        "pointed": np.maximum(4 * THINNEST, width),
    }


def cut_columns(content: Content) -> dict[str, Any]:
    """Return one row for each node: lines ``xs``, ``ys`` of its cut, their ``width``, ``words``.

    A line runs from the query's node down to the key's; NaN stands between two lines.
    """
    depth, n = content.edges.shape[:2]
    xs: list[Any] = []
    ys: list[Any] = []
    words, widths = [], []
    for level in range(depth + 1):
        for token in range(n):
            words.append(_told(content, level, token))
            cut = content.cuts.get((level, token))
            # Many lines hide what is below them.
            widths.append(0 if cut is None else float(np.clip(20 / max(len(cut.edges), 1), 1.5, 4)))
            if cut is None:  # two words of JSON where an array would take twenty
                xs.append([])
                ys.append([])
                continue
            edges = np.array(cut.edges, np.float32).reshape(-1, 3)
            gap = np.full(len(edges), np.nan, np.float32)
            xs.append(np.stack([edges[:, 1], edges[:, 2], gap], 1).ravel())
            ys.append(np.stack([edges[:, 0] + 1, edges[:, 0], gap], 1).ravel())
    return {"xs": xs, "ys": ys, "width": np.array(widths, np.float32), "words": words}


def _told(content: Content, level: int, token: int) -> str:
    depth = len(content.edges)
    top = short(visible(content.tokens[content.source]), NAME)
    end = short(visible(content.tokens[token]), NAME)
    place = "in the input" if level == 0 else f"after layer {level}"
    node = (level, token)
    if node not in content.cuts:
        return "No cut is worked out for this one."
    cut = content.cuts[node]
    edges = f"{len(cut.edges)} edge{'' if len(cut.edges) == 1 else 's'}"
    first = f"{top} after layer {depth} → {end} (token {token}) {place}: flow {cut.value:.4g}"
    return f"{first}, held down by {edges}\n{_folded(_words(content, node))}"


def _folded(text: str) -> str:
    text = short(text, LINE * LINES)
    return "\n".join(text[start : start + LINE] for start in range(0, len(text), LINE))
