"""Writes that end when the one sentence that says what went wrong is said already."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["without_late_writes"]


@contextmanager
def without_late_writes() -> Iterator[None]:
    """Keep quiet about what TensorStore still has to say to Orbax after a write has failed.

    Orbax closes its event loop at the first failure; each write that ends later is then reported as
    a traceback of its own, dozens of them around the one sentence that says what is wrong. They
    come as exceptions that nobody can raise and, printed by compiled code, as ones that nobody
    caught. Some end while the process does: after a failure both hooks stay, and let all else pass.
    """
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def told_unraisable(found: Any) -> None:
        if not late(found.exc_value):
            unraisable(found)

    def told_uncaught(kind: Any, error: BaseException, trace: Any) -> None:
        if not late(error):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = told_unraisable, told_uncaught
    yield
    sys.unraisablehook, sys.excepthook = unraisable, uncaught
