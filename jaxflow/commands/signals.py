"""What a command does when it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["ended_by_signals"]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end a block by an exception, so that it leaves nothing half-written.

    Python runs a signal's handler only between two of its own instructions, which a long call into
    compiled code holds up. A thread of its own therefore counts the signals as they arrive, and at
    the second one ends the process, at once and with 128 and the signal's number.

    Others' code in the middle of something, an import for one, may turn the exception into an error
    of its own: what a block raises once a signal has come is taken for its end by that signal.
    """
    from jaxflow.stopping import Stopped

    come: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        come.append(number)
        raise Stopped(number)

    ours = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    ]
    if threading.current_thread() is not threading.main_thread() or not ours:
        yield
        return
    before = {number: signal.signal(number, stop) for number in ours}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakened = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(reader, set(ours)), daemon=True).start()
    try:
        yield
    except Exception as error:
        if come:
            raise Stopped(come[0]) from error
        raise
    finally:
        signal.set_wakeup_fd(wakened)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_the_second(reader: int, numbers: set[int]) -> None:
    seen = 0
    with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as arrivals:
        while arrived := arrivals.read(1):
            seen += arrived[0] in numbers
            if seen == 2:
                os._exit(128 + arrived[0])
