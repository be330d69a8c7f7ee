"""Show the interactive page in a notebook, or save it to a file."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.html.content import prepare
from jaxflow.html.style import visible

_COMPUTED = ("raw", "rollout", "flow")


@runtime_checkable
class _Explained(Protocol):
    """The fields of an explanation that `show` uses."""

    attention: Any
    tokens: Sequence[Any]
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
    """An interactive page.

    Attributes
    ----------
    html
        The whole document; it needs no network and no other file.
    height
        Height in a notebook in pixels; the page scrolls within it.
    """

    html: str
    height: int = 900

    def __repr__(self) -> str:
        return f"<jaxflow page, {len(self.html.encode()) / 1e6:.1f} MB: .save(path) writes it>"

    def _repr_html_(self) -> str:
        # In a frame, the page's styles and scripts are isolated from the notebook's.
        return (
            f'<iframe srcdoc="{html.escape(self.html, quote=True)}" sandbox="allow-scripts '
            f'allow-downloads" style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, atomically.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        target = Path(path)
        data = self.html.encode()
        write_together(target.parent, {target.name: lambda part: part.write_bytes(data)})
        return target


def show(
    attention: Any,
    tokens: Sequence[str] | None = None,
    *,
    scores: Mapping[str, Any] | None = None,
    residual: float = 0.5,
    mask: Any = None,
    source: int = 0,
) -> Page:
    """Show an attention as an interactive page: bars, heat map and flow graph.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``, the attention of one sentence, a list of its layers, or an explanation
        with `attention`, `tokens` and `scores`, as `jaxflow.eval.explanation` makes them.
    tokens
        The n tokens; None names them by their index.
    scores
        Further scores to compare with, by name, each ``[n]``.
    residual
        Share of the residual connection, for rollout and flow.
    mask
        bool ``[n]``, True at real tokens: the others are left out.
    source
        Index of the token explained; with a mask, negative ones count from the last real token.

    Returns
    -------
    Page
        Displayed by a notebook; `Page.save` writes it to a file.

    Raises
    ------
    InputError
        If an argument is not usable.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxflow
    >>> page = jaxflow.show(np.full((2, 1, 3, 3), 1 / 3), ["[CLS]", "the", "keys"])
    >>> page  # doctest: +ELLIPSIS
    <jaxflow page, ... MB: .save(path) writes it>
    """
    from jaxflow.html.document import Section, write_page

    if isinstance(attention, _Explained):
        if tokens is not None:
            raise InputError("tokens must not be given with an explanation, which has its own")
        tokens = [getattr(token, "text", token) for token in attention.tokens]
        own = attention.scores.items()
        # Methods that the page computes itself, for every layer and head, are left out.
        kept = {key.replace("_", " "): each for key, each in own if key not in _COMPUTED}
        scores = kept | dict(scores or {})
        attention = attention.attention
    content = prepare(attention, tokens, scores=scores, residual=residual, mask=mask, source=source)
    words = visible(" ".join(content.tokens))
    intro = f"<h2><bdi>{html.escape(words)}</bdi></h2>"
    title = "Which tokens the output came from"
    return Page(write_page(f"jaxflow: {words}", title, [Section(intro, content)]))
