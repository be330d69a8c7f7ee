"""Run cases of readers: each must return a right answer or one `InputError` within limits.

A case is a function of its reader's name and its number. Time is that of the processor, because a
busy machine lets every process wait. Memory is what Python and NumPy ask for (`tracemalloc`,
touched or not) and what the whole process grew by.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import counting
import numpy as np

from fuzzing.mutate import Case, mutate_case
from jaxflow.errors import InputError

#: What a reader can be at fault for.
FAULTS = ("crash", "hang", "memory", "message", "wrong")
SECONDS, WAITING = 1.0, 60.0  # of the processor; by the clock, for what hangs without working
TIMES = 64  # bytes that a byte of a file may take, besides a reader's room
LONGEST_MESSAGE = 4_000
BLOCK, WATCHED = 250, 8  # of so many blocks of cases one has Python's requests for memory watched
KEPT = 20  # faults of a reader that are kept in full


class Reader(NamedTuple):
    """A function that reads files from outside.

    Attributes
    ----------
    name, seeds
        As reports have it; makes the good cases that the others are made of.
    read
        From the folder that a case lies in to what was read. Its error may be `InputError` alone.
    expected
        From an accepted case to what must have been read of it, by an independent reader; None
        where there is none.
    share, room
        Its share of a run's cases, beside the others'; bytes that reading a small case may take.
    names_file
        Whether an error must name the file or its folder.
    fixed, seal
        Files so named are never changed; makes checksums fit what was changed, most of the time.
    """

    name: str
    seeds: Callable[[], Sequence[Case]]
    read: Callable[[Path], Any]
    expected: Callable[[Case], Any] | None = None
    share: float = 1.0
    room: int = 32 << 20
    names_file: bool = True
    fixed: str | None = None
    seal: Callable[[Case], Case] | None = None


class Verdict(NamedTuple):
    """The result of a case: its kind, the error's message or trace, and seconds."""

    kind: str
    detail: str = ""
    seconds: float = 0.0


class Hang(BaseException):
    """Raised in a reader that takes too long; no reader may catch it."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder in memory, where there is one."""
    os.environ["RUST_BACKTRACE"] = "0"  # Rust's account of a panic takes much memory
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def lay_out(folder: Path, case: Case) -> None:
    """Write a case to a folder, which holds nothing else afterwards."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if content is None else path.write_bytes(content)


def case_of(reader: Reader, seeds: Sequence[Case], number: int) -> Case:
    """Make the case of a number; the first ones are the good ones."""
    if number < len(seeds):
        return seeds[number]
    rng = Random(f"{reader.name}/{number}")
    case = mutate_case(rng, rng.choice(seeds), seeds, reader.fixed)
    return reader.seal(case) if reader.seal and rng.random() < 0.8 else case


def check_same(value: Any, expected: Any) -> None:
    """Compare what was read, dtypes included, or have it checked by what is expected."""
    if callable(expected):
        expected(value)
    elif isinstance(expected, Mapping):
        assert value.keys() == expected.keys()
        for name, each in expected.items():
            check_same(value[name], each)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(value, expected, strict=True)
    elif isinstance(expected, list | tuple):
        for one, other in zip(value, expected, strict=True):
            check_same(one, other)
    else:
        assert value == expected or (value != value and expected != expected)  # NaN


def judge(reader: Reader, case: Case, folder: Path) -> Verdict:
    """Read a case from a folder of its own and check the result."""
    verdict = _judged(reader, case, folder)
    if verdict.kind == "hang" and tracemalloc.is_tracing():
        # To watch memory takes several times as long: judged again without.
        tracemalloc.stop()
        verdict = _judged(reader, case, folder)
        tracemalloc.start()
    return verdict


def _judged(reader: Reader, case: Case, folder: Path) -> Verdict:
    lay_out(folder, case)
    allowed = reader.room + TIMES * sum(len(content or b"") for content in case.values())
    traced, before = tracemalloc.is_tracing(), 0
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
            warnings.filterwarnings("ignore", "the head of the model in")
            value = reader.read(folder)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # Rust's panics come as an exception that is no Exception
        error = caught
    seconds = time.process_time() - started
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    peak = max(grown, tracemalloc.get_traced_memory()[1] - before if traced else 0)
    if isinstance(error, Hang) or seconds > SECONDS:
        return Verdict("hang", _trace(error) if error else f"{seconds:.1f} s", seconds)
    if error is not None and type(error) is not InputError:
        return Verdict("crash", _trace(error), seconds)
    if peak > allowed:
        return Verdict("memory", f"{peak:,} bytes where {allowed:,} are allowed", seconds)
    if error is not None:
        text = str(error)
        good = text.strip() and text.isprintable() and len(text) <= LONGEST_MESSAGE
        good = good and (not reader.names_file or str(folder) in text)
        return Verdict("refused" if good else "message", text, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if reader.expected is not None:
                check_same(value, reader.expected(case))
    except Exception as caught:
        return Verdict("wrong", _trace(caught), seconds)
    return Verdict("accepted", "", seconds)


def _trace(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error))
    return lines[-3000:].encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `Hang` in the block once it has worked, or waited, for too long."""

    def stop(*_: Any) -> None:
        raise Hang("the time is over")

    alarms = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
              (signal.SIGALRM, signal.ITIMER_REAL, WAITING))  # fmt: skip
    before = [signal.signal(number, stop) for number, _, _ in alarms]
    try:
        for _, timer, seconds in alarms:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for (number, timer, _), handler in zip(alarms, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def each(reader: Reader, numbers: range, folder: Path) -> Iterator[tuple[int, Verdict]]:
    """Check cases, after a first reading that imports and compiles."""
    seeds = reader.seeds()
    for seed in seeds:
        lay_out(folder, seed)
        with contextlib.suppress(Exception):
            check_same(reader.read(folder), reader.expected and reader.expected(seed))
    for number in numbers:
        if (number // BLOCK) % WATCHED == 0 and not tracemalloc.is_tracing():
            tracemalloc.start()
        elif (number // BLOCK) % WATCHED and tracemalloc.is_tracing():
            tracemalloc.stop()
        yield number, judge(reader, case_of(reader, seeds, number), folder)
    tracemalloc.stop()


def tally(verdicts: Iterable[tuple[int, Verdict]]) -> dict[str, Any]:
    """Count cases by their kind; ``told`` has the first faults in full."""
    found: dict[str, Any] = dict.fromkeys(("cases", "accepted", "refused", *FAULTS), 0)
    found |= {"slowest": 0.0, "told": []}
    for number, verdict in verdicts:
        found["cases"] += 1
        found[verdict.kind] += 1
        found["slowest"] = max(found["slowest"], round(verdict.seconds, 3))
        if verdict.kind in FAULTS and len(found["told"]) < KEPT:
            found["told"].append({"number": number, **verdict._asdict()})
    return found


def run(readers: Sequence[Reader], cases: int, out: Path) -> dict[str, Any]:
    """Check cases of every reader and write the counts after each; readers in `out` are done."""
    found = {"readers": {}, **counting.resumed(out, cases=cases)}
    shares = sum(reader.share for reader in readers)
    for reader in readers:
        if reader.name not in found["readers"]:
            count = -int(-cases * reader.share // shares)
            with scratch() as folder:
                found["readers"][reader.name] = tally(each(reader, range(count), folder))
            print(reader.name, found["readers"][reader.name])
            counting.write(out, found)
    return found


def total(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums over all readers, and the slowest case of all."""
    rows = found["readers"].values()
    sums = {name: sum(row[name] for row in rows)
            for name in ("cases", "accepted", "refused", *FAULTS)}  # fmt: skip
    return {**sums, "slowest": max(row["slowest"] for row in rows)}


def as_table(found: Mapping[str, Any]) -> str:
    """Write a Markdown table of the counts, one row a reader."""
    names = ("cases", "accepted", "refused", *FAULTS)
    rows = {**found["readers"], "all": total(found)}
    return counting.table(
        ("reader", *names, "slowest case, s"),
        [(name, *(row[key] for key in names), f"{row['slowest']:.2f}")
         for name, row in rows.items()],
    )  # fmt: skip
