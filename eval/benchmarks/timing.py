"""Fair timing: contenders take turns in one process, and medians are compared."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxflow.eval.benchmarks.memory import METHOD as MEMORY_METHOD
from jaxflow.eval.benchmarks.memory import PeakMemory, traced_peak

__all__ = ["METHOD", "Budget", "Contender", "Timing", "over_parts", "ratio", "take_turns"]

#: How the numbers came about; printed beside them.
METHOD = (
    "Contenders take turns in one process; each time is the median over the rounds, a round being "
    "as many calls as fill 2 ms. A contender stops when its budget is spent, those too slow for a "
    "second call after the first. The first call, which compiles, is timed apart. Work on several "
    "sentences is timed sentence by sentence: the time is the median over sentences of these "
    "medians, a ratio the median over the sentences that both did of the ratios of their times. "
    + MEMORY_METHOD
)

_TRACED_BELOW = 1.0  # seconds, see the method's text
_SHORTEST_ROUND = 2e-3  # seconds: well above what the clock and the loop cost


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a contender may take: seconds after its first call, and at most so many rounds."""

    seconds: float = 1.0
    rounds: int = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """One way to do the work.

    Attributes
    ----------
    name
        What it is called in the results.
    run
        Does the whole work once, to the end, and returns its result.
    error
        From that result to its largest absolute error, or None where there is nothing to say.
    compiles
        Whether the first call compiles, so that its time must never stand for the others.
    units
        How many times the call does the work; every time is divided by it.
    """

    name: str
    run: Callable[[], Any]
    error: Callable[[Any], float] | None = None
    compiles: bool = False
    units: int = 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a contender took.

    Attributes
    ----------
    name
        The contender.
    seconds, fastest
        Median and least time of one unit of work, a call unless it does several.
    rounds
        How many rounds they come from.
    first_call
        Seconds of the first call, with compilation where there is any.
    error
        Largest absolute error of the first call's result, None where it was not measured.
    peak_memory
        Most bytes that a call needed beyond those that were there, None where that cannot be
        measured.
    parts
        The seconds of each part of the work, such as a sentence, where parts were timed apart.
    """

    name: str
    seconds: float
    fastest: float
    rounds: int
    first_call: float
    error: float | None
    peak_memory: int | None = None
    parts: tuple[float, ...] = ()


def ratio(timing: Timing, base: Timing) -> float:
    """Return one time over another: the median ratio over the parts that both did."""
    pairs = zip(timing.parts or (timing.seconds,), base.parts or (base.seconds,), strict=False)
    return statistics.median(seconds / other for seconds, other in pairs)


def over_parts(parts: Sequence[Sequence[Timing]]) -> list[Timing]:
    """Put the timings of the parts of a work together, by name.

    Parameters
    ----------
    parts
        The timings of every part. A contender may be missing from the last ones, and takes part
        in the first.

    Returns
    -------
    list of Timing
        In the first part's order: medians over the parts, the fewest rounds, the first part's
        first call, the largest error and peak memory.
    """
    together = []
    for first in parts[0]:
        own = [timing for part in parts for timing in part if timing.name == first.name]
        errors = [timing.error for timing in own if timing.error is not None]
        peaks = [timing.peak_memory for timing in own if timing.peak_memory is not None]
        seconds = tuple(timing.seconds for timing in own)
        together.append(
            Timing(
                name=first.name,
                seconds=statistics.median(seconds),
                fastest=min(timing.fastest for timing in own),
                rounds=min(timing.rounds for timing in own),
                first_call=first.first_call,
                error=max(errors, default=None),
                peak_memory=max(peaks, default=None),
                parts=seconds,
            )
        )
    return together


def take_turns(contenders: Sequence[Contender], budget: Budget) -> list[Timing]:
    """Time contenders against each other, in turns, in the order given."""
    first, errors, calls = [], [], []
    peaks: list[int | None] = []
    times: list[list[float]] = [[] for _ in contenders]
    for place, contender in enumerate(contenders):
        with PeakMemory() as peak:
            seconds, result = _timed(contender.run, 1)
        first.append(seconds)
        errors.append(None if contender.error is None else float(contender.error(result)))
        del result
        if seconds > budget.seconds and not contender.compiles:
            times[place].append(seconds)
        else:
            with PeakMemory() as peak:  # compilation is no part of it
                seconds, _ = _timed(contender.run, 1)
        if peak.bytes is not None and seconds < _TRACED_BELOW:
            peaks.append(max(peak.bytes, traced_peak(contender.run)))
        else:
            peaks.append(peak.bytes)
        calls.append(max(1, math.ceil(_SHORTEST_ROUND / max(seconds, 1e-9))))

    spent = [sum(measured) for measured in times]
    for turn in range(budget.rounds):
        for step in range(len(contenders)):
            place = (turn + step) % len(contenders)  # nobody always follows the same neighbour
            if times[place] and spent[place] >= budget.seconds:
                continue
            seconds, _ = _timed(contenders[place].run, calls[place])
            times[place].append(seconds / calls[place])
            spent[place] += seconds

    return [
        Timing(
            name=contender.name,
            seconds=statistics.median(times[place]) / contender.units,
            fastest=min(times[place]) / contender.units,
            rounds=len(times[place]),
            first_call=first[place] / contender.units,
            error=errors[place],
            peak_memory=peaks[place],
        )
        for place, contender in enumerate(contenders)
    ]


def _timed(run: Callable[[], Any], calls: int) -> tuple[float, Any]:
    result = None
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    return time.perf_counter() - start, result
