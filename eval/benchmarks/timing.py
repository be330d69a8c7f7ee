"""Time several implementations in turns in one process, compare medians, and record them."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import platform
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflow.eval.report import Column, Table, to_json, versions

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = "jaxflow-benchmark-3"
_PEERS = ("torch", "transformers", "igraph", "ortools")

#: How the numbers were measured; printed beside them.
METHOD = (
    "Contenders take turns in one process, in another order every round; each time is the median "
    "over the rounds, a round being as many calls as fill 2 ms. A contender stops when its "
    "budget is spent, those too slow for a second call after the first. The first call, which "
    "compiles, is timed apart. Work on several sentences is timed sentence by sentence: the time "
    "is the median over sentences of these medians, a ratio the median over the sentences that "
    "both did of the ratios of their times. Peak memory, on Linux only, is what one call needed "
    "beyond what was there when it began: the larger of the rise of the process's resident "
    "memory (to some hundred kB) and, for calls below a second, what Python and NumPy allocated "
    "in a further call."
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
    """Time contenders in turns, round after round, each in an order of its own."""
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
        # In an order of its own: threads of a library spin on for a while after a call, and always
        # after the same one's they would slow the same contender.
        for place in random.Random(turn).sample(range(len(contenders)), len(contenders)):
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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The timings of several implementations of one piece of work."""

    benchmark: str  # flow, rollout, train or models
    work: str  # the work in words
    settings: Mapping[str, Any]  # the work in numbers
    timings: tuple[Timing, ...]  # the project's own way first
    reference: str = ""  # what errors are measured against
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # peer -> the reason
    notes: tuple[str, ...] = ()


def describe_machine() -> dict[str, Any]:
    """Return ``{"processor", "cores", "memory", "system", "load"}``; memory in bytes or None."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    linux = hasattr(os, "sched_getaffinity")
    return {
        "processor": next(iter(names), platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if linux else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if linux else None,
        "system": platform.platform(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def to_record(comparisons: Sequence[Comparison], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"format", "method", "machine", "versions", "comparisons"}`` as JSON values.

    Each comparison has the fields of `Comparison`, but for ``timings``: its ``contenders`` are
    objects with the fields of `Timing` and ``ratio``, the time over that of the first. Times are in
    seconds, memory in bytes, null is what was not measured.
    """
    installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    packages = {name: installed[name] for name in _PEERS if name in installed}
    entries = []
    for comparison in comparisons:
        entry = to_json(comparison)
        entry["contenders"] = [
            to_json(timing) | {"ratio": ratio(timing, comparison.timings[0])}
            for timing in comparison.timings
        ]
        del entry["timings"]
        entries.append(entry)
    return {
        "format": FORMAT,
        "method": METHOD,
        "machine": to_json(machine),
        "versions": {**versions(), **packages},
        "comparisons": entries,
    }


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one comparison as a table with its notes."""
    base = comparison.timings[0]
    head = (
        "",
        Column("median", seconds_text),
        Column("ratio", ratio_text),
        Column("fastest", seconds_text),
        Column("rounds"),
        Column("first call", seconds_text),
        Column("peak memory", bytes_text),
        Column("error", lambda error: f"{error:.1e}" if error else "0"),
    )
    rows = [
        (one.name, one.seconds, ratio(one, base), one.fastest, one.rounds, one.first_call,
         one.peak_memory, one.error)
        for one in comparison.timings
    ]  # fmt: skip
    console.print(f"{comparison.benchmark}: {comparison.work}", style="bold", soft_wrap=True)
    Table.of(head, rows).print(console)
    lines = [f"ratio: time over that of {base.name}"]
    if comparison.reference:
        lines.append(f"error: largest absolute difference from {comparison.reference}")
    lines += [f"{peer}: {reason}" for peer, reason in comparison.missing.items()]
    for line in (*lines, *comparison.notes):
        console.print(f"  {line}", style="dim", soft_wrap=True, markup=False)
    console.print()


def seconds_text(seconds: float) -> str:
    """Write three figures in s, ms or µs."""
    unit, size = ("s", 1) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)
    return f"{_three(seconds / size)} {unit}"


def ratio_text(ratio: float) -> str:
    """Write a ratio: whole from 100, three figures below."""
    return f"{_three(ratio)}x"


def bytes_text(count: int) -> str:
    """Write a size in MB or kB."""
    return f"{_three(count / 1e6)} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
