"""Turns, budgets, parts and memory of the benchmarks. Nothing is timed."""

import doctest
import sys

import numpy as np
import pytest

from jaxflow.eval.benchmarks import figures, flow_growth
from jaxflow.eval.benchmarks.floor import copy_bandwidth, floor_seconds
from jaxflow.eval.benchmarks.memory import PeakMemory, traced_peak
from jaxflow.eval.benchmarks.timing import (
    Budget,
    Contender,
    Timing,
    over_parts,
    ratio,
    take_turns,
)


def test_turns_are_taken_and_budgets_kept(monkeypatch):
    calls = []
    slow = Budget(seconds=0.0, rounds=5)
    contenders = [
        Contender(name, lambda name=name: calls.append(name) or 3.0, lambda result: result - 1)
        for name in "ab"
    ]
    timings = take_turns(contenders, slow)
    # Slower than the budget: the first call is the measurement; another one counts memory.
    assert calls == (["a", "a", "b", "b"] if sys.platform == "linux" else ["a", "b"])
    assert [(timing.rounds, timing.error) for timing in timings] == [(1, 2.0), (1, 2.0)]

    # Without a system that tells its memory there is no such call.
    monkeypatch.setattr("jaxflow.eval.benchmarks.memory._reset", lambda: 0)
    ticks = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: float(next(ticks)))
        calls.clear()
        compiling = [Contender(c.name, c.run, compiles=True, units=4) for c in contenders]
        timings = take_turns(compiling, Budget(seconds=10.0, rounds=3))
    # First call, another to count by, then the rounds with the order turned each time.
    assert calls == ["a", "a", "b", "b", "a", "b", "b", "a", "a", "b"]
    assert [timing.rounds for timing in timings] == [3, 3]
    assert [timing.seconds for timing in timings] == [0.25, 0.25]
    assert [timing.peak_memory for timing in timings] == [None, None]


def timing(name, seconds, **fields):
    base = {"fastest": seconds, "rounds": 3, "first_call": 1.0, "error": None}
    return Timing(name, seconds, **base | fields)


def test_parts_are_put_together_by_name():
    parts = [
        [timing("own", 1.0, error=1e-12, peak_memory=10), timing("slow", 9.0, first_call=2.0)],
        [timing("own", 4.0, rounds=2, error=1e-11, peak_memory=30), timing("slow", 20.0)],
        [timing("own", 2.0, fastest=0.5, peak_memory=20)],
    ]
    own, slow = over_parts(parts)
    assert (own.seconds, own.fastest, own.rounds) == (2.0, 0.5, 2)
    assert (own.error, own.peak_memory, own.parts) == (1e-11, 30, (1.0, 4.0, 2.0))
    assert (slow.seconds, slow.first_call, slow.error, slow.peak_memory) == (14.5, 2.0, None, None)
    # Only over the sentences that both did: 9 / 1 and 20 / 4.
    assert ratio(slow, own) == 7.0
    assert ratio(timing("a", 6.0), timing("b", 3.0)) == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is that of Linux")
def test_peak_memory_is_that_of_the_block():
    size = 60_000_000
    for _ in range(2):  # what the first one gave back may not hide the second
        with PeakMemory() as peak:
            temporary = np.ones(size // 8)
            del temporary
            kept = np.ones(1000)
        # Linux adds pages up in batches.
        assert size - 2_000_000 <= peak.bytes <= size + 20_000_000
    with PeakMemory() as peak:
        kept += 1
    assert peak.bytes < 20_000_000


def test_python_counts_what_it_holds():
    assert 8_000_000 <= traced_peak(lambda: np.ones(1_000_000)) <= 8_100_000
    # The list, pointers only, and the lists in it.
    assert traced_peak(lambda: [[] for _ in range(10_000)]) >= 10_000 * (8 + 40)


def test_the_floor_is_one_read():
    assert copy_bandwidth(10_000) > 0
    assert floor_seconds(6, 20, 1e9) == pytest.approx(6 * 400 * 8 / 1e9)


@pytest.mark.parametrize("module", [figures, flow_growth])
def test_examples_of_the_benchmarks(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
