"""Count the results of many faults of every kind; an interrupted campaign resumes.

A trial is a function of its kind, its work and its number, so a fault can be repeated by these
three alone. Its time by the clock differs, though.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faulting.trials import KINDS, Stage
from faulting.works import WORKS

#: The works of the trials, again and again.
TURNS = (
    *("train", "prepare", "evaluate", "shards", "train", "finetune", "prepare", "shards"),
    *("train", "leaderboard", "evaluate", "finetune", "prepare", "shards", "train", "finetune"),
)
#: Kinds of which as many trials as asked for must strike, given up after so many times as many.
STRIKING, MOST = ("kill", "stop"), 3


def plan(kind: str, number: int) -> str:
    """Return the work of a kind's trial of a number; two may prepare a corpus at once."""
    turns = [name for name in TURNS if kind != "twice" or name != "prepare"]
    return turns[number % len(turns)]


def run(counts: Mapping[str, int], damages: int, out: Path) -> dict[str, Any]:
    """Make trials and write their counts to `out` after each.

    Returns ``faults``, by kind and work how many were ``tried``, ``struck`` and ``survived`` with
    what was wrong in ``told``; ``damages``; ``made``, trials by kind; ``finished``.
    """
    asked = {"asked": dict(counts), "damages_asked": damages}
    found: dict[str, Any] = {**asked, "faults": {}, "damages": None, "finished": False}
    found["made"] = dict.fromkeys(counts, 0)
    if out.is_file():
        found = json.loads(out.read_text(encoding="utf-8"))
        if {name: found[name] for name in asked} != asked:
            raise SystemExit(f"{out} is of another run: name another file")

    def left(kind: str) -> bool:
        made, tallies = found["made"][kind], found["faults"].get(kind, {}).values()
        if kind not in STRIKING:
            return bool(made < counts[kind])
        struck = sum(tally["struck"] for tally in tallies)
        return bool(struck < counts[kind] and made < MOST * counts[kind])

    def write() -> None:
        found["finished"] = not any(map(left, counts)) and found["damages"] is not None
        part = out.with_name(f".{out.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(out)

    if found["finished"]:
        return found
    with tempfile.TemporaryDirectory() as name:
        stage = Stage.build(Path(name))
        try:
            if found["damages"] is None:
                run_folder, scratch = stage.inputs / "run", stage.scratch / "damaged"
                found["damages"] = stage.call(
                    stage.scratch, "damaged_checkpoints", str(run_folder), str(scratch), damages
                )
                write()
            whole = {work.name: (work, stage.undisturbed(work)) for work in WORKS}
            # All kinds go on together, so that the counts of a run that is cut off are of all.
            while kinds := [kind for kind in counts if left(kind)]:
                for kind in kinds:
                    number = found["made"][kind]
                    found["made"][kind] += 1
                    work = plan(kind, number)
                    outcome = KINDS[kind][1](stage, *whole[work], number)
                    if outcome is not None:
                        tally = (
                            found["faults"]
                            .setdefault(kind, {})
                            .setdefault(work, {"tried": 0, "struck": 0, "survived": 0, "told": []})
                        )
                        tally["tried"] += 1
                        tally["struck"] += outcome.struck
                        tally["survived"] += not outcome.wrong
                        if outcome.wrong:
                            tally["told"].append(f"{kind} {work} {number}: {outcome.wrong}")
                            print(tally["told"][-1])
                    write()
        finally:
            stage.server.close()
    return found
