"""Time several implementations in turns in one process, and compare medians."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: How the numbers were measured; printed beside them.
METHOD = (
    "Contenders take turns in one process; each time is the median over the rounds, a round being "
    "as many calls as fill 2 ms. A contender stops when its budget is spent, those too slow for a "
    "second call after the first. The first call, which compiles, is timed apart. Work on several "
    "sentences is timed sentence by sentence: the time is the median over sentences of these "
    "medians, a ratio the median over the sentences that both did of the ratios of their times. "
    "Peak memory, on Linux only, is what one call needed beyond what was there when it began: the "
    "larger of the rise of the process's resident memory (to some hundred kB) and, for calls below "
    "a second, what Python and NumPy allocated in a further call."
)

_TRACED_BELOW = 1.0  # seconds; counting allocations would slow longer calls severalfold
_SHORTEST_ROUND = 2e-3  # seconds: well above what the clock and the loop cost


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits of a contender's time: seconds after its first call, and the number of rounds."""

    seconds: float = 1.0
    rounds: int = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """One implementation to time."""

    name: str
    run: Callable[[], Any]  # does the whole work once, to the end
    error: Callable[[Any], float] | None = None  # from its result to the largest absolute error
    compiles: bool = False  # whether the first call compiles and must be timed separately
    units: int = 1  # how many times a call does the work; every time is divided by it


@dataclasses.dataclass(frozen=True)
class Timing:
    """The measurements of one contender, in seconds and bytes; None was not measured."""

    name: str
    seconds: float  # median over the rounds
    fastest: float
    rounds: int
    first_call: float  # with compilation where there is any
    error: float | None = None  # of the first call's result
    peak_memory: int | None = None  # of a call, beyond what was there before
    parts: tuple[float, ...] = ()  # of each sentence, where they were timed separately


def ratio(timing: Timing, base: Timing) -> float:
    """Return one time over another: the median ratio over the parts that both did."""
    pairs = zip(timing.parts or (timing.seconds,), base.parts or (base.seconds,), strict=False)
    return statistics.median(seconds / other for seconds, other in pairs)


def over_parts(parts: Sequence[Sequence[Timing]]) -> tuple[Timing, ...]:
    """Combine the timings of the parts of a work by name; a contender may lack the last ones."""
    combined = []
    for first in parts[0]:
        own = [timing for part in parts for timing in part if timing.name == first.name]
        seconds = tuple(timing.seconds for timing in own)
        combined.append(
            Timing(
                first.name,
                statistics.median(seconds),
                min(timing.fastest for timing in own),
                min(timing.rounds for timing in own),
                first.first_call,
                max((one.error for one in own if one.error is not None), default=None),
                max((one.peak_memory for one in own if one.peak_memory is not None), default=None),
                seconds,
            )
        )
    return tuple(combined)


def take_turns(contenders: Sequence[Contender], budget: Budget) -> tuple[Timing, ...]:
    """Time contenders in turns, round after round, in the order given."""
    first, errors, calls, peaks = [], [], [], []
    times: list[list[float]] = [[] for _ in contenders]
    for contender, measured in zip(contenders, times, strict=True):
        seconds, result, peak = measure(contender.run)
        first.append(seconds)
        errors.append(None if contender.error is None else float(contender.error(result)))
        del result
        if seconds > budget.seconds and not contender.compiles:
            measured.append(seconds)
        else:
            seconds, _, peak = measure(contender.run)  # without compilation
        if peak is not None and seconds < _TRACED_BELOW:
            peak = max(peak, traced_peak(contender.run))
        peaks.append(peak)
        calls.append(max(1, math.ceil(_SHORTEST_ROUND / max(seconds, 1e-9))))

    spent = [sum(measured) for measured in times]
    for turn in range(budget.rounds):
        for step in range(len(contenders)):
            place = (turn + step) % len(contenders)  # the order rotates
            if times[place] and spent[place] >= budget.seconds:
                continue
            start = time.perf_counter()
            for _ in range(calls[place]):
                contenders[place].run()
            seconds = time.perf_counter() - start
            times[place].append(seconds / calls[place])
            spent[place] += seconds

    return tuple(
        Timing(
            contender.name,
            statistics.median(measured) / contender.units,
            min(measured) / contender.units,
            len(measured),
            seconds / contender.units,
            error,
            peak,
        )
        for contender, measured, seconds, error, peak in zip(
            contenders, times, first, errors, peaks, strict=True
        )
    )


def measure(run: Callable[[], Any]) -> tuple[float, Any, int | None]:
    """Call once; return seconds, the result, and the rise of resident memory in bytes."""
    before = _reset_peak()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return seconds, result, max(0, _resident("VmHWM") - before) if before else None


def traced_peak(run: Callable[[], Any]) -> int:
    """Call once and return the peak of bytes that Python and NumPy allocated."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _reset_peak() -> int:
    """Reset the high-water mark of resident memory; return resident bytes, 0 if not on Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # hand back what the allocator kept of earlier calls
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _resident("VmRSS")
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return 0


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
