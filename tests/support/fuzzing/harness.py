"""Run cases of readers: each must return a right answer or one `InputError` within limits.

A case is a function of its reader's name and its number. Time is that of the processor, because a
busy machine lets every process wait. Memory is what Python and NumPy ask for (`tracemalloc`,
touched or not) and what the whole process grew by.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fuzzing.mutate import Case, mutate_case
from jaxflow.errors import InputError

#: What a reader can be at fault for.
FAULTS = ("crash", "hang", "memory", "message", "wrong")
SECONDS, WAITING = 1.0, 60.0  # of the processor; by the clock, for what hangs without working
TIMES = 64  # bytes that a byte of a file may take, besides a reader's room
LONGEST_MESSAGE = 4_000
BLOCK, WATCHED = 250, 8  # of so many blocks of cases one has Python's requests for memory watched
KEPT = 20  # faults of a reader that are kept in full


def no_oracle(folder: Path, case: Case, value: Any) -> None:
    """Accept every result, where there is no oracle."""


class Reader(NamedTuple):
    """A function that reads files from outside.

    Attributes
    ----------
    name, seeds
        As reports have it; makes the good cases that the others are made of.
    read
        From the folder that a case lies in to what was read. Its error may be `InputError` alone.
    oracle
        Raises if what was read of a case is wrong.
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
    oracle: Callable[[Path, Case, Any], None] = no_oracle
    share: float = 1.0
    room: int = 32 << 20
    names_file: bool = True
    fixed: str | None = None
    seal: Callable[[Case], Case] | None = None


class Verdict(NamedTuple):
    """The result of a case: its kind, the error's message or trace, seconds, and peak bytes."""

    kind: str
    detail: str = ""
    seconds: float = 0.0
    peak: int = 0


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
            value = reader.read(folder)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # Rust's panics come as an exception that is no Exception
        error = caught
    seconds = time.process_time() - started
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    peak = max(grown, tracemalloc.get_traced_memory()[1] - before if traced else 0)
    if isinstance(error, Hang) or seconds > SECONDS:
        return Verdict("hang", _trace(error) if error else f"{seconds:.1f} s", seconds, peak)
    if error is not None and type(error) is not InputError:
        return Verdict("crash", _trace(error), seconds, peak)
    if peak > allowed:
        return Verdict("memory", f"{peak:,} bytes where {allowed:,} are allowed", seconds, peak)
    if error is not None:
        text = str(error)
        good = text.strip() and text.isprintable() and len(text) <= LONGEST_MESSAGE
        good = good and (not reader.names_file or str(folder) in text)
        return Verdict("refused" if good else "message", text, seconds, peak)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.oracle(folder, case, value)
    except Exception as caught:
        return Verdict("wrong", _trace(caught), seconds, peak)
    return Verdict("accepted", "", seconds, peak)


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


@dataclasses.dataclass
class Tally:
    """The results of a reader's cases; `told` has the first faults in full."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    faults: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FAULTS, 0))
    slowest: float = 0.0
    told: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        """Count a case."""
        self.cases += 1
        self.slowest = max(self.slowest, round(verdict.seconds, 3))
        if verdict.kind in FAULTS:
            self.faults[verdict.kind] += 1
            if len(self.told) < KEPT:
                self.told.append({"number": number, "kind": verdict.kind, "what": verdict.detail})
        else:
            setattr(self, verdict.kind, getattr(self, verdict.kind) + 1)


def each(reader: Reader, numbers: range, folder: Path) -> Iterator[tuple[int, Verdict]]:
    """Check cases, after a first reading that imports and compiles."""
    seeds = reader.seeds()
    for seed in seeds:
        lay_out(folder, seed)
        with contextlib.suppress(Exception):
            reader.oracle(folder, seed, reader.read(folder))
    for number in numbers:
        if (number // BLOCK) % WATCHED == 0 and not tracemalloc.is_tracing():
            tracemalloc.start()
        elif (number // BLOCK) % WATCHED and tracemalloc.is_tracing():
            tracemalloc.stop()
        yield number, judge(reader, case_of(reader, seeds, number), folder)
    tracemalloc.stop()


def run(readers: Sequence[Reader], cases: int, out: Path, first: int = 0) -> dict[str, Any]:
    """Check cases of every reader and write the counts after each; readers in `out` are done."""
    found: dict[str, Any] = {"readers": {}}
    if out.is_file():
        found = json.loads(out.read_text(encoding="utf-8"))
        if (found["first"], found["asked"]) != (first, cases):
            raise SystemExit(f"{out} is of another run: name another file")
    found |= {"first": first, "asked": cases}
    shares = sum(reader.share for reader in readers)
    for reader in readers:
        if reader.name not in found["readers"]:
            tally = Tally()
            with scratch() as folder:
                count = -int(-cases * reader.share // shares)
                for number, verdict in each(reader, range(first, first + count), folder):
                    tally.add(number, verdict)
            found["readers"][reader.name] = dataclasses.asdict(tally)
            print(reader.name, tally.cases, {kind: n for kind, n in tally.faults.items() if n})
        tallies = found["readers"].values()
        total = {name: sum(t[name] for t in tallies) for name in ("cases", "accepted", "refused")}
        found["total"] = total | {kind: sum(t["faults"][kind] for t in tallies) for kind in FAULTS}
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def as_table(found: dict[str, Any]) -> str:
    """Write a Markdown table of the counts, one row a reader."""
    head = ("reader", "cases", "read", "refused", *FAULTS, "slowest case, s")
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    rows = {name: {**tally, **tally["faults"]} for name, tally in found["readers"].items()}
    slowest = max(tally["slowest"] for tally in rows.values())
    for name, row in {**rows, "all": {**found["total"], "slowest": slowest}}.items():
        counts = " | ".join(f"{row[key]:,}" for key in ("cases", "accepted", "refused", *FAULTS))
        lines.append(f"| {name} | {counts} | {row['slowest']:.2f} |")
    return "\n".join(lines) + "\n"
