"""Many faults of every kind, counted."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faulting.disks import fail, limit, small_disk
from faulting.kills import kill, stop, two_at_once
from faulting.trials import Outcome, Stage, Undisturbed, undisturbed
from faulting.works import Work

__all__ = ["KINDS", "SHARES", "plan", "run"]

TOLD = 20  # wrong outcomes of a kind that are told in full

Trial = Callable[[Stage, Work, Undisturbed, int], Outcome | None]

KINDS: dict[str, tuple[str, Trial]] = {
    "kill": ("killed (SIGKILL) at a random moment", kill),
    "stop": ("told to stop (SIGTERM, SIGINT)", stop),
    "twice": ("started twice on one folder", two_at_once),
    "fail": ("disk full, read-only or permission lost from a random file operation on", fail),
    "limit": ("no file may grow beyond a random size", limit),
    "disk": ("a file system of a few pages, or a read-only one", small_disk),
}
"""Kinds of trials: what they are, in words, and how one is made."""

SHARES = {"train": 4, "evaluate": 2, "leaderboard": 1, "prepare": 3}
"""How often each work comes, of ten trials."""


@dataclasses.dataclass
class Tally:
    """Trials of one kind on one work, counted.

    Attributes
    ----------
    tried, struck
        Trials, and those of them in which the fault came before the work had ended.
    survived
        Trials in which nothing was half-written and the same command then ended as an undisturbed
        one.
    told
        What was wrong in the others.
    """

    tried: int = 0
    struck: int = 0
    survived: int = 0
    told: list[str] = dataclasses.field(default_factory=list)


def plan(count: int, kind: str) -> list[tuple[str, int]]:
    """Return the works of so many trials, in turns, each with the number of its trial."""
    turns = ["train", "prepare", "evaluate", "train", "prepare", "train", "leaderboard", "evaluate"]
    turns += ["prepare", "train"]
    if kind == "twice":  # two may prepare the same corpus: one of them takes the other's
        turns = [name for name in turns if name != "prepare"]
    return [(turns[number % len(turns)], number) for number in range(count)]


def run(
    counts: Mapping[str, int],
    damages: int,
    out: Path,
    *,
    works: tuple[str, ...] = tuple(SHARES),
    first: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make trials and write their counts after each.

    Parameters
    ----------
    counts
        Kind -> number of trials.
    damages
        Number of damaged checkpoints.
    out
        JSON file of the counts.
    works
        Works that faults come to.
    first
        Number of the first trial: other numbers are other moments.
    report
        Told of each trial that went wrong.

    Returns
    -------
    dict
        What is in the file.
    """
    begun = time.monotonic()
    tallies: dict[str, dict[str, Tally]] = {}
    found: dict[str, Any] = {"damages": None, "asked": sum(counts.values())}

    def write() -> None:
        found["faults"] = {
            kind: {work: dataclasses.asdict(tally) for work, tally in each.items()}
            for kind, each in tallies.items()
        }
        found["first"], found["seconds"] = first, round(time.monotonic() - begun)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(out)

    with tempfile.TemporaryDirectory() as name:
        stage = Stage.build(Path(name))
        try:
            if damages:
                arguments = (str(stage.inputs / "run"), str(stage.scratch / "damaged"), damages)
                cache = stage.inputs / "cache"
                made = stage.server.call(
                    stage.scratch, "damaged_checkpoints", *arguments, cache=cache
                )
                found["damages"] = made
                for line in made["wrong"][:TOLD]:
                    report(line)
                write()
            needed = [name for name in works if any(counts.values())]
            whole = {work.name: (work, there) for work, there in undisturbed(stage, needed).items()}
            longest = max(counts.values(), default=0)
            for number in range(longest):
                for kind, count in counts.items():
                    if number >= count:
                        continue
                    name, _ = plan(count, kind)[number]
                    if name not in whole:
                        continue
                    work, there = whole[name]
                    outcome = KINDS[kind][1](stage, work, there, first + number)
                    if outcome is None:
                        continue
                    tally = tallies.setdefault(kind, {}).setdefault(name, Tally())
                    tally.tried += 1
                    tally.struck += outcome.struck
                    tally.survived += not outcome.wrong
                    if outcome.wrong:
                        lines = f"{kind} {name} {first + number}: " + "; ".join(outcome.wrong)
                        report(lines)
                        tally.told = [*tally.told, lines][:TOLD]
                    write()
        finally:
            stage.server.close()
    write()
    return found
