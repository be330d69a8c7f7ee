"""The contract, held against one case: a right answer or one `InputError`, soon and in bounds.

Time is that of the processor, because a busy machine lets every process wait. Memory is what
Python and NumPy ask for (`tracemalloc`, touched or not) and what the whole process grew by.
"""

from __future__ import annotations

import resource
import signal
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fuzzing.cases import Case, Reader, lay_out, size_of
from jaxflow.errors import InputError

__all__ = ["FAULTS", "LONGEST_MESSAGE", "Verdict", "judge"]

Kind = Literal["accepted", "refused", "crash", "hang", "memory", "message", "wrong"]
FAULTS = ("crash", "hang", "memory", "message", "wrong")

SECONDS = 1.0
WAITING = 60.0  # by the clock: for what hangs without working
TIMES = 64  # bytes that a byte of a file may take, besides a reader's room
LONGEST_MESSAGE = 4_000


class Hang(BaseException):
    """Raised in a reader that has had its time; no reader may swallow it."""


class Verdict(NamedTuple):
    """What became of a case: its kind, the error's message or trace, seconds, and bytes at most."""

    kind: Kind
    detail: str
    seconds: float
    peak: int


def judge(reader: Reader, case: Case, folder: Path) -> Verdict:
    """Read a case out of a folder of its own and judge what came of it."""
    verdict = _judged(reader, case, folder)
    if verdict.kind == "hang" and tracemalloc.is_tracing():
        # To watch memory takes several times as long: judged again without.
        tracemalloc.stop()
        verdict = _judged(reader, case, folder)
        tracemalloc.start()
    return verdict


def _judged(reader: Reader, case: Case, folder: Path) -> Verdict:
    lay_out(folder, case)
    allowed = reader.room + TIMES * size_of(case)
    traced = tracemalloc.is_tracing()
    before = 0
    if traced:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value: Any = None
    error: BaseException | None = None
    started = time.process_time()
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("error")
            value = reader.read(folder)
    except KeyboardInterrupt:
        raise
    # Rust's panics come as an exception that is no Exception.
    except BaseException as caught:
        error = caught
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1] - before if traced else 0
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    peak = max(peak, grown)

    def verdict(kind: Kind, detail: str = "") -> Verdict:
        return Verdict(kind, detail, seconds, peak)

    if isinstance(error, Hang) or seconds > SECONDS:
        return verdict("hang", _trace(error) if error else f"{seconds:.1f} s")
    if error is not None and type(error) is not InputError:
        return verdict("crash", _trace(error))
    if peak > allowed:
        return verdict("memory", f"{peak:,} bytes where {allowed:,} are allowed")
    if error is not None:
        wrong = _message(str(error), reader, case, folder)
        return verdict("message" if wrong else "refused", wrong or str(error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.oracle(folder, case, value)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:
        return verdict("wrong", _trace(caught))
    return verdict("accepted")


def _message(text: str, reader: Reader, case: Case, folder: Path) -> str:
    """Say what is wrong with an error's message, or nothing."""
    if not text.strip():
        return "no message"
    if len(text) > LONGEST_MESSAGE:
        return f"a message of {len(text)} characters"
    if not text.isprintable():
        return f"a message of more than one line of text: {text!r}"
    if reader.names_file and str(folder) not in text:
        return f"a message that names no file: {text!r}"
    return ""


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return "".join(lines)[-3000:].encode("utf-8", "backslashreplace").decode()


@contextmanager
def _limited() -> Iterator[None]:
    """Raise `Hang` in the block once it has worked, or waited, for too long."""

    def stop(*_: Any) -> None:
        raise Hang("the time is over")

    old = [signal.signal(name, stop) for name in (signal.SIGPROF, signal.SIGALRM)]
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in zip((signal.SIGPROF, signal.SIGALRM), old, strict=True):
            signal.signal(name, handler)
