"""Stop at a signal: the first one lets a block finish its step, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal ended the work.

    Attributes
    ----------
    number
        The signal's; a command that it ended exits with 128 more.
    kept
        What is on disk, for the message: ``"after step 12, whose checkpoint is written"``.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {kept}".rstrip())
        self.number = number
        self.kept = kept


class _Handler:
    """A handler that records the first signal, and raises at the second."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if self.number is not None:
            raise Stopped(number)
        self.number = number


@contextmanager
def stopping() -> Iterator[Callable[[], int | None]]:
    """Catch SIGINT and SIGTERM for a block, which polls for them.

    A signal that was ignored before, as ``nohup`` has it, stays ignored. Only the main thread
    receives signals: in another one nothing is caught. A block within a block hands its signal on
    to the outer one when it ends.

    Yields
    ------
    callable
        Returns the number of the signal received, or None.

    Raises
    ------
    Stopped
        At a second signal, wherever the block is; at its end, if nothing else was raised after a
        first one.
    """
    handler = _Handler()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # None means a handler that is not Python's, which could not be restored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield lambda: handler.number
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
    if handler.number is not None:
        outer = before[handler.number]
        if not isinstance(outer, _Handler):
            raise Stopped(handler.number)
        outer(handler.number)
