"""`show`: the page in a notebook, or saved to a file."""

from __future__ import annotations

import dataclasses
import html
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxflow.errors import InputError
from jaxflow.html.content import prepare

__all__ = ["Page", "show"]


@runtime_checkable
class _Explained(Protocol):
    """What an explanation offers: its attention, its tokens, and scores by name."""

    attention: Any
    tokens: Sequence[Any]
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
    """An interactive page.

    Attributes
    ----------
    html
        The whole document, which needs no network and no other file.
    height
        Pixels it takes in a notebook before it scrolls.
    """

    html: str
    height: int = 900

    def __repr__(self) -> str:
        return f"<jaxflow page, {len(self.html.encode()) / 1e6:.1f} MB: .save(path) writes it>"

    def _repr_html_(self) -> str:
        # A frame of its own: the page's styles and scripts do not meet the notebook's.
        return (
            f'<iframe srcdoc="{html.escape(self.html, quote=True)}" sandbox="allow-scripts '
            f'allow-downloads" style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, beside its place and then renamed.

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
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".page-") as folder:
                part = Path(folder) / "page.html"
                part.write_bytes(self.html.encode())
                os.replace(part, target)
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}") from error
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
        ``[L, H, n, n]``, the attention of one sentence, or an explanation with `attention`,
        `tokens` and `scores`, as `jaxflow.eval.explain.explanation` makes them.
    tokens
        The n tokens; without them they are called by their index.
    scores
        Further scores to compare with, by name, each ``[n]``.
    residual
        Share of the residual connection, for rollout and flow.
    mask
        bool ``[n]``, True at real tokens: the others are left out.
    source
        Index of the token explained.

    Returns
    -------
    Page
        Shown by a notebook as it is; `Page.save` writes it to a file.

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
    from jaxflow.html.text import visible

    if isinstance(attention, _Explained):
        if tokens is not None:
            raise InputError("tokens must not be given with an explanation, which has its own")
        content = prepare(
            attention.attention,
            [getattr(token, "text", token) for token in attention.tokens],
            scores=_plain(attention.scores) | dict(scores or {}),
            residual=residual,
            mask=mask,
            source=source,
        )
    else:
        content = prepare(
            attention, tokens, scores=scores, residual=residual, mask=mask, source=source
        )
    words = visible(" ".join(content.tokens))
    intro = f"<h2><bdi>{html.escape(words)}</bdi></h2>"
    title = "Which tokens the output came from"
    return Page(write_page(f"jaxflow: {words}", title, [Section(intro, content)]))


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the page works out itself, for every layer and head."""
    return {
        name.replace("_", " "): values
        for name, values in scores.items()
        if name not in ("raw", "rollout", "flow")
    }
