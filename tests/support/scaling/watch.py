"""Commands as child processes, watched from outside: memory, processor time, shards done."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from many_devices import environment

__all__ = ["Sample", "Seen", "evaluate"]

_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One look at the processes of an evaluation.

    Attributes
    ----------
    seconds, processor
        Since they were started, by the clock, and their processor time.
    memory
        Resident bytes of the process that has most.
    shards
        Files that are there.
    """

    seconds: float
    processor: float
    memory: int
    shards: int


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was seen of an evaluation, from first to last.

    Attributes
    ----------
    samples
        In the order of time.
    seconds, processor
        Until all processes had ended, theirs together.
    """

    samples: tuple[Sample, ...]
    seconds: float
    processor: float


def evaluate(
    arguments: Sequence[object],
    out: Path,
    more: Mapping[str, str],
    *,
    devices: int = 1,
    processes: int = 1,
    cores: int | None = None,
    every: float = 0.05,
) -> Seen:
    """Run ``jaxflow evaluate`` with `arguments` into `out` and watch it.

    Parameters
    ----------
    more
        Of the environment.
    devices
        That each process has of the host's cores.
    processes
        How many share the work; more than one are given ``--processes`` and write no tables.
    cores
        Cores that each process is confined to, other ones for each; None confines none.
    every
        Seconds between looks.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    command = [sys.executable, "-m", "jaxflow", "evaluate", *map(str, arguments), "--out", str(out)]
    free = sorted(os.sched_getaffinity(0))
    before, begun = _children(), time.monotonic()
    started = []
    for index in range(processes):
        mine = command
        if processes > 1:
            mine = [*command, "--processes", str(processes), "--process", str(index)]
        child = subprocess.Popen(
            mine,
            env={**environment(devices), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if cores is not None:  # before it has made its first thread, which inherits this
            places = [free[(index * cores + k) % len(free)] for k in range(cores)]
            os.sched_setaffinity(child.pid, places)
        started.append(child)
    samples: list[Sample] = []
    last = [(0.0, 0)] * processes  # of those that have ended
    running = True
    while running:
        running = any([child.poll() is None for child in started])  # once more when all have ended
        last = [_look(child.pid) or look for child, look in zip(started, last, strict=True)]
        shards = len(list((out / "shards").glob("shard-*.parquet")))
        processor, memory = sum(p for p, _ in last), max(m for _, m in last)
        samples.append(Sample(time.monotonic() - begun, processor, memory, shards))
        time.sleep(every if running else 0)
    seconds = time.monotonic() - begun
    for child in started:
        _, said = child.communicate()
        if child.returncode:
            raise RuntimeError(f"{command} ended with {child.returncode}: {said[-2000:]}")
    return Seen(tuple(samples), seconds, _children() - before)


def _look(process: int) -> tuple[float, int] | None:
    """Return a process's processor time in seconds and its resident bytes; None if it has ended."""
    try:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
        # The name in brackets may hold blanks: fields are counted from behind it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return ((int(fields[11]) + int(fields[12])) / _TICKS, resident) if resident else None


def _children() -> float:
    """Return the processor time of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
