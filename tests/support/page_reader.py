"""Parse an interactive page: its HTML as a browser does, and the data in it."""

from __future__ import annotations

import html.parser
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bokeh.document import Document

# What a token could be to do harm, or to be lost.
NASTY = (
    "[CLS]",
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "\"double\" 'single'",
    "back\\slash\\n",
    "שלום",
    "\U0001f469\u200d\U0001f680",
    "a\u2028b\u202ec",
    "$$x^2$$ @token{safe} $index",
    "{{ 7 * 7 }} &lt;",
)


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes, and the text and scripts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.data = ""
        self._kind = "text"
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("script", "style"):
            self._kind = dict(attrs).get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._kind = "text"

    def handle_data(self, data: str) -> None:
        if self._kind == "application/json":
            self.data += data
        elif self._kind == "script":
            self.scripts.append(data)
        elif self._kind == "text":
            self.text.append(data)


def document(page: str) -> Document:
    """Return the page's Bokeh document, made anew from what the page holds."""
    from bokeh.document import Document

    (written,) = json.loads(html.unescape(Reader(page).data)).values()
    return Document.from_json(written)


def columns(page: str, name: str) -> dict[str, Any]:
    """Return the data of the renderer of that name, of the page's first sentence."""
    found = list(document(page).select({"name": name}))
    return {key: as_arrays(values) for key, values in found[0].data_source.data.items()}


def as_arrays(values: Any) -> Any:
    return np.asarray(values) if isinstance(values, np.ndarray) else list(values)
