"""Text that is safe to show: nothing invisible, nothing that reorders what stands around it."""

from __future__ import annotations

import unicodedata

__all__ = ["short", "visible"]

# Characters that reorder the text around them: shown by name, so that a token cannot disguise
# itself or its neighbours.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, halves of characters, and the two separators that break lines.
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    r"""Write control characters as escapes; every other character stays.

    Examples
    --------
    >>> visible("a\x1b[31m\u202eb\u2028")
    'a\\x1b[31m\\u202eb\\u2028'
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _UNSEEN or char in _REORDERING
        else char
        for char in text
    )


def short(text: str, longest: int) -> str:
    """Cut a text that is longer, and say so with an ellipsis.

    Examples
    --------
    >>> short("cabinet", 5)
    'cabi…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"
