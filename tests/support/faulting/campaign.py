"""Many faults of every kind, counted and resumable.

A trial is a function of its kind, its work and its number, so a fault can be had again by these
three alone. By the clock it does not come at the same place twice.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faulting.disks import fail, limit, small_disk
from faulting.kills import kill, stop, two_at_once
from faulting.trials import Outcome, Stage, Undisturbed, undisturbed
from faulting.works import Work

__all__ = ["KINDS", "WORK_NAMES", "plan", "run"]

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

TURNS = (
    *("train", "prepare", "evaluate", "shards", "train", "finetune", "prepare", "shards"),
    *("train", "leaderboard", "evaluate", "finetune", "prepare", "shards", "train", "finetune"),
)
"""The works of the trials, again and again."""

WORK_NAMES = tuple(dict.fromkeys(TURNS))

SHARED = ("prepare",)
"""Works that two may do at once: what one of them has made the other takes."""

STRIKING = ("kill", "stop")
"""Kinds of which as many trials as are asked for must strike: what has ended cannot be killed."""

MOST = 3
"""A kind that must strike is given up after so many times the trials that are asked for."""


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


def plan(kind: str, works: Sequence[str], number: int) -> str:
    """Return the work of a kind's trial of a number."""
    turns = [name for name in TURNS if name in works]
    if kind == "twice":
        turns = [name for name in turns if name not in SHARED]
    return turns[number % len(turns)] if turns else ""


def run(
    counts: Mapping[str, int],
    damages: int,
    out: Path,
    *,
    works: tuple[str, ...] = WORK_NAMES,
    first: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make trials and write their counts after each.

    Parameters
    ----------
    counts
        Kind -> number of trials; of `STRIKING`, number of those that strike.
    damages
        Number of damaged checkpoints.
    out
        JSON file of the counts. Where it is there already, the run goes on behind its trials.
    works
        Works that faults come to.
    first
        Number of the first trial: other numbers are other moments.
    report
        Told of each trial that went wrong.

    Returns
    -------
    dict
        What is in the file: ``asked``, ``first``, ``works`` and ``damages_asked`` say which run it
        is; ``made`` and ``seconds`` how far it is, trials by kind and by the clock; ``finished``
        whether that is all; ``faults``, kind -> work -> `Tally`, and ``damages`` what was found.
    """
    which = {"asked": dict(counts), "first": first, "works": list(works), "damages_asked": damages}
    found: dict[str, Any] = {"faults": {}, "damages": None, "made": {}, "seconds": 0.0}
    if out.is_file():
        found = json.loads(out.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in which} != which:
            raise SystemExit(f"{out} is of another run: name another file")
    found |= which
    tallies = {
        kind: {work: Tally(**fields) for work, fields in each.items()}
        for kind, each in found["faults"].items()
    }
    made: dict[str, int] = dict.fromkeys(counts, 0) | found["made"]

    def left() -> list[str]:
        return [kind for kind in counts if _left(kind, counts[kind], made[kind], tallies)]

    def write(seconds: float) -> None:
        found["faults"] = {
            kind: {work: dataclasses.asdict(tally) for work, tally in each.items()}
            for kind, each in tallies.items()
        }
        found["made"], found["seconds"] = made, round(found["seconds"] + seconds, 2)
        found["finished"] = not left() and (not damages or found["damages"] is not None)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(out)

    write(0.0)
    if found["finished"]:
        return found
    with tempfile.TemporaryDirectory() as name:
        stage = Stage.build(Path(name))
        try:
            if damages and found["damages"] is None:
                begun = time.monotonic()
                found["damages"] = _damages(stage, damages)
                for line in found["damages"]["wrong"][:TOLD]:
                    report(line)
                write(time.monotonic() - begun)
            needed = list(works) if left() else []
            whole = {work.name: (work, there) for work, there in undisturbed(stage, needed).items()}
            # All kinds go on together, so that the counts of a run that is cut off are of all.
            while kinds := left():
                for kind in kinds:
                    begun = time.monotonic()
                    number = first + made[kind]
                    name = plan(kind, works, made[kind])
                    made[kind] += 1
                    outcome = KINDS[kind][1](stage, *whole[name], number) if name else None
                    if outcome is not None:
                        tally = tallies.setdefault(kind, {}).setdefault(name, Tally())
                        tally.tried += 1
                        tally.struck += outcome.struck
                        tally.survived += not outcome.wrong
                        if outcome.wrong:
                            lines = f"{kind} {name} {number}: " + "; ".join(outcome.wrong)
                            report(lines)
                            tally.told = [*tally.told, lines][:TOLD]
                    write(time.monotonic() - begun)
        finally:
            stage.server.close()
    return found


def _left(kind: str, asked: int, made: int, tallies: Mapping[str, Mapping[str, Tally]]) -> bool:
    """Whether there are trials of a kind still to be made."""
    if kind not in STRIKING:
        return made < asked
    return made < MOST * asked and sum(t.struck for t in tallies.get(kind, {}).values()) < asked


def _damages(stage: Stage, count: int) -> Any:
    """Try damaged checkpoints of the stage's run."""
    arguments = (str(stage.inputs / "run"), str(stage.scratch / "damaged"), count)
    cache = stage.inputs / "cache"
    return stage.server.call(stage.scratch, "damaged_checkpoints", *arguments, cache=cache)
