"""A hook of mkdocs that writes the table of edge weights from the registry."""

from __future__ import annotations

from typing import Any

MARK = "<!-- edge weights -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark in a page by the rows of the table."""
    return markdown.replace(MARK, rows()) if MARK in markdown else markdown


def rows() -> str:
    """Return a row for each edge weight, family and propagation."""
    from jaxflow.edges import edge_families, edge_weights, propagations

    families = edge_families()
    numbered = {f"{prefix}-" for prefix in families}
    found = [
        (edge.name, edge.title, edge.source)
        for edge in (*edge_weights().values(), *propagations().values())
        if not edge.name.startswith(tuple(numbered))
    ]
    for prefix, family in families.items():
        example = family.make((*family.shown(1), "0")[0])
        found.append((f"{prefix}-NUMBER", f"the number is {family.number}", example.source))
    return "\n".join(f"| `{name}` | {title} | {source} |" for name, title, source in found)
