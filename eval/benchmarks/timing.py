"""Fair timing: contenders take turns in one process, and medians are compared."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["METHOD", "Budget", "Contender", "Timing", "take_turns"]

#: How the numbers came about; printed beside them.
METHOD = (
    "Contenders take turns in one process; each time is the median over the rounds, a round being "
    "as many calls as fill 2 ms. A contender stops when its budget is spent, those too slow for a "
    "second call after the first. The first call, which compiles, is timed apart."
)

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
    """

    name: str
    seconds: float
    fastest: float
    rounds: int
    first_call: float
    error: float | None


def take_turns(contenders: Sequence[Contender], budget: Budget) -> list[Timing]:
    """Time contenders against each other, in turns, in the order given."""
    first, errors, calls = [], [], []
    times: list[list[float]] = [[] for _ in contenders]
    for place, contender in enumerate(contenders):
        seconds, result = _timed(contender.run, 1)
        first.append(seconds)
        errors.append(None if contender.error is None else float(contender.error(result)))
        del result
        if seconds > budget.seconds and not contender.compiles:
            times[place].append(seconds)
        else:
            seconds, _ = _timed(contender.run, 1)
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
        )
        for place, contender in enumerate(contenders)
    ]


def _timed(run: Callable[[], Any], calls: int) -> tuple[float, Any]:
    result = None
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    return time.perf_counter() - start, result
