"""Many cases of every reader: counted, resumable, and the same in every run.

A case is a function of the reader's name and the case's number, so a fault can be had again by
these two alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.cases import Case, Reader, lay_out, sweep
from fuzzing.check import FAULTS, Verdict, judge

__all__ = [
    "Tally",
    "all_readers",
    "as_table",
    "case_of",
    "each",
    "plan",
    "run",
    "scratch",
    "warm_up",
]

BLOCK, STAGES = 250, 20
#: Seconds by the clock after which a case that nothing can stop ends the process.
STUCK = 300
KEPT = 20  # faults of a reader that are told in full


def all_readers() -> tuple[Reader, ...]:
    """Return every reader."""
    from fuzzing import (
        readers_arrays,
        readers_corpora,
        readers_models,
        readers_records,
        readers_runs,
        readers_shards,
        readers_text,
        readers_tokens,
    )

    rooms = (
        readers_text, readers_corpora, readers_arrays, readers_records, readers_runs,
        readers_shards, readers_models, readers_tokens,
    )  # fmt: skip
    return tuple(reader for room in rooms for reader in room.READERS)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder in memory, where there is one."""
    # Rust's account of a panic takes more memory than any reader, for the symbols in it.
    os.environ["RUST_BACKTRACE"] = "0"
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def case_of(reader: Reader, seeds: Sequence[Case], number: int) -> Case:
    """Make the case of a number; the first ones are the good ones."""
    if number < len(seeds):
        return seeds[number]
    rng = Random(f"{reader.name}/{number}")
    return reader.mutate(rng, rng.choice(seeds), seeds)


def warm_up(reader: Reader, folder: Path) -> Sequence[Case]:
    """Read the good cases once, for what the first time imports and compiles, and return them."""
    seeds = reader.seeds()
    for seed in seeds:
        lay_out(folder, seed)
        with contextlib.suppress(Exception):
            reader.oracle(folder, seed, reader.read(folder))
    return seeds


def each(reader: Reader, numbers: range, folder: Path) -> Iterator[tuple[int, Verdict]]:
    """Judge cases."""
    seeds = warm_up(reader, folder)
    for number in numbers:
        yield number, judge(reader, case_of(reader, seeds, number), folder)
    sweep(folder)


@dataclasses.dataclass
class Tally:
    """What became of a reader's cases.

    Attributes
    ----------
    cases, accepted, refused
        All; those that were read, rightly as far as the oracle knows; those with an `InputError`.
    watched
        Those in which every request of Python for memory was seen; growth is seen in all.
    faults
        Kind of fault -> how many.
    slowest, largest
        Seconds of processor and bytes of the case that took most.
    told
        The first faults: number, kind and what happened.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    watched: int = 0
    faults: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FAULTS, 0))
    slowest: float = 0.0
    largest: int = 0
    told: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        """Count a case."""
        self.cases += 1
        self.watched += tracemalloc.is_tracing()
        self.slowest = max(self.slowest, round(verdict.seconds, 3))
        self.largest = max(self.largest, verdict.peak)
        if verdict.kind in ("accepted", "refused"):
            setattr(self, verdict.kind, getattr(self, verdict.kind) + 1)
            return
        self.faults[verdict.kind] += 1
        if len(self.told) < KEPT:
            self.told.append({"number": number, "kind": verdict.kind, "detail": verdict.detail})


def plan(readers: Sequence[Reader], cases: int) -> dict[str, int]:
    """Divide cases among readers by their shares, at least as many as asked for in all."""
    whole = sum(reader.share for reader in readers)
    return {reader.name: -int(-cases * reader.share // whole) for reader in readers}


def run(
    readers: Sequence[Reader],
    cases: int,
    out: Path,
    *,
    first: int = 0,
    memory: int = 8,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge cases of every reader and write the counts after every block.

    Parameters
    ----------
    readers, cases
        Which, and how many in all.
    out
        JSON of the counts. Where it is there already, the run goes on behind it.
    first
        The number of the first case of every reader: runs from other numbers see other cases.
    memory
        In how many blocks one has Python's own requests for memory watched, which makes it four
        times slower; 0 for none.
    report
        Gets a line now and then.

    Returns
    -------
    dict
        What was written.
    """
    wanted = plan(readers, cases)
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"readers": {}}
    if found["readers"] and (found["first"], found["asked"]) != (first, cases):
        raise SystemExit(f"{out} is of another run: name another file")
    found |= {"first": first, "asked": cases}
    found.setdefault("seconds", {})
    with scratch() as folder:
        seeds = {reader.name: warm_up(reader, folder) for reader in readers}
        tallies = {
            reader.name: Tally(**found["readers"].get(reader.name, {})) for reader in readers
        }
        # All readers go on together, so that the counts of a run that is cut off are of all.
        for stage in range(1, STAGES + 1):
            for reader in readers:
                tally = tallies[reader.name]
                goal = -(-wanted[reader.name] * stage // STAGES)
                while tally.cases < goal:
                    started = time.process_time()
                    stop = min(tally.cases + BLOCK, goal)
                    watched = bool(memory) and (tally.cases // BLOCK) % memory == 0
                    faulthandler.dump_traceback_later(STUCK, exit=True)
                    _block(reader, seeds[reader.name], range(first + tally.cases, first + stop),
                           folder, tally, watched)  # fmt: skip
                    faulthandler.cancel_dump_traceback_later()
                    spent = found["seconds"].get(reader.name, 0.0)
                    found["seconds"][reader.name] = round(spent + time.process_time() - started, 2)
                    found["readers"][reader.name] = dataclasses.asdict(tally)
                    _write(out, found)
            total = {name: count for name, count in found["total"].items() if count}
            report(f"stage {stage} of {STAGES}: {total}")
    return found


def _block(
    reader: Reader, seeds: Sequence[Case], numbers: range, folder: Path, tally: Tally, watched: bool
) -> None:
    if watched:
        tracemalloc.start()
    try:
        for number in numbers:
            tally.add(number, judge(reader, case_of(reader, seeds, number), folder))
    finally:
        if watched:
            tracemalloc.stop()


def as_table(found: dict[str, Any]) -> str:
    """Write the counts of a run as a Markdown table."""
    head = ("reader", "cases", "read", "refused", *FAULTS, "slowest case, s")
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for name, fields in found["readers"].items():
        counts = [fields["cases"], fields["accepted"], fields["refused"]]
        counts += [fields["faults"][kind] for kind in FAULTS]
        numbers = " | ".join(f"{count:,}" for count in counts)
        lines.append(f"| {name} | {numbers} | {fields['slowest']:.2f} |")
    whole = found["total"]
    numbers = " | ".join(f"{whole[key]:,}" for key in ("cases", "accepted", "refused", *FAULTS))
    slowest = max(fields["slowest"] for fields in found["readers"].values())
    return "\n".join([*lines, f"| all | {numbers} | {slowest:.2f} |"]) + "\n"


def _write(out: Path, found: dict[str, Any]) -> None:
    tallies = [Tally(**fields) for fields in found["readers"].values()]
    found["total"] = {
        "cases": sum(tally.cases for tally in tallies),
        "accepted": sum(tally.accepted for tally in tallies),
        "refused": sum(tally.refused for tally in tallies),
        "watched": sum(tally.watched for tally in tallies),
        **{kind: sum(tally.faults[kind] for tally in tallies) for kind in FAULTS},
    }
    beside = out.with_name(f".{out.name}.part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    beside.replace(out)
