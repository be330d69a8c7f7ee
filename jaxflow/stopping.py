"""Asked to stop by a signal: a run finishes its step and keeps it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Stopped", "stopping"]


class Stopped(KeyboardInterrupt):
    """A signal ended the work.

    Attributes
    ----------
    number
        The signal's; a command that it ended exits with 128 more.
    kept
        What is on disk, to be told: ``"after step 12, whose checkpoint is written"``.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {kept}".rstrip())
        self.number = number
        self.kept = kept


@contextmanager
def stopping() -> Iterator[Callable[[], int | None]]:
    """Catch SIGINT and SIGTERM for a block: the first is for the block to ask for.

    A signal that was ignored before, as ``nohup`` has it, stays ignored. Signals are the main
    thread's: in another one nothing is caught.

    Yields
    ------
    callable
        Gives the number of the signal that has come, or None.

    Raises
    ------
    Stopped
        At a second signal, wherever the block is; at its end, if nothing else was raised after a
        first one.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise Stopped(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # None stands for a handler that is not Python's, and could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, catch)
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for caught_one, handler in before.items():
            signal.signal(caught_one, handler)
    if caught:
        raise Stopped(caught[0])
