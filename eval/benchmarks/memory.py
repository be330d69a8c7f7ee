"""How much memory a call needs at most, beyond what was there when it began. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["METHOD", "PeakMemory", "traced_peak"]

METHOD = (
    "Peak memory is what one call needed beyond what was there when it began, results included: "
    "the larger of two figures. One is how far the process's resident memory rose, by the system's "
    "high-water mark, set back before the call, after the allocator has handed back what it kept "
    "of earlier calls; Linux counts it to some hundred kB. The other is what Python and NumPy "
    "counted themselves in a further call, because Python reuses its own free memory unseen; calls "
    "of a second and more, which counting would slow down severalfold, go without. What a library "
    "keeps from its first call to the next is in neither. Elsewhere than on Linux it is "
    "not measured."
)

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Measure the block that it manages.

    Attributes
    ----------
    bytes
        After the block, how far resident memory rose in it; None where that cannot be seen.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._before = 0

    def __enter__(self) -> PeakMemory:
        self._before = _reset()
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            # The mark falls behind by the pages that Linux has not yet added up.
            self.bytes = max(0, _resident("VmHWM") - self._before)


def traced_peak(run: Callable[[], Any]) -> int:
    """Call once more and return the most bytes that Python and NumPy held of it at a time."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _reset() -> int:
    """Start a new high-water mark; return resident bytes, 0 where there is no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text("5", encoding="ascii")  # the resident set's peak only
        return _resident("VmRSS")
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return 0


def _resident(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
