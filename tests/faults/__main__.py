"""``python -m tests.faults``: kills, damages and full disks, counted; not in the installation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faulting.campaign import KINDS, WORK_NAMES, run

COUNTS = {"kill": 100, "stop": 20, "twice": 10, "fail": 40, "limit": 20, "disk": 20}


def main() -> int:
    """Inject the faults that are asked for; 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for kind, (what, _) in KINDS.items():
        name = {"kill": "--kills", "stop": "--stops", "fail": "--fails", "limit": "--limits",
                "disk": "--disks", "twice": "--twice"}[kind]  # fmt: skip
        parser.add_argument(
            name, dest=kind, type=int, default=COUNTS[kind], help=f"{what} ({COUNTS[kind]})"
        )
    parser.add_argument("--damages", type=int, default=500, help="damaged checkpoints (500)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("faults.json"),
        help="JSON of the counts, gone on behind where it is there",
    )
    parser.add_argument(
        "--work",
        action="append",
        choices=tuple(WORK_NAMES),
        help="only this work, and others so named",
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    options = parser.parse_args()
    counts = {kind: getattr(options, kind) for kind in KINDS}
    works = tuple(options.work or WORK_NAMES)
    found = run(counts, options.damages, options.out, works=works, first=options.first)
    tallies = [tally for each in found["faults"].values() for tally in each.values()]
    lost = sum(tally["tried"] - tally["survived"] for tally in tallies)
    wrong = len(found["damages"]["wrong"]) if found["damages"] else 0
    tried = sum(tally["tried"] for tally in tallies)
    print(
        f"{tried} faults, {lost} not survived; {options.damages} damages, {wrong} not seen through"
    )
    return int(bool(lost or wrong))


if __name__ == "__main__":
    sys.exit(main())
