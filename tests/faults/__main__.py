"""Count the results of kills, damage and full disks: ``python -m tests.faults``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faulting.campaign import run
from faulting.trials import KINDS

COUNTS = {"kill": 100, "stop": 20, "twice": 10, "fail": 40, "limit": 20, "disk": 20}


def main() -> int:
    """Inject the faults that are asked for; 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for kind, (what, _) in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=COUNTS[kind],
                            help=f"{what} ({COUNTS[kind]})")  # fmt: skip
    parser.add_argument("--damages", type=int, default=500, help="damaged checkpoints (500)")
    parser.add_argument("--out", type=Path, default=Path("faults.json"), help="JSON of the counts")
    options = parser.parse_args()
    counts = {kind: getattr(options, kind) for kind in KINDS}
    found = run(counts, options.damages, options.out)
    tallies = [tally for each in found["faults"].values() for tally in each.values()]
    lost = sum(tally["tried"] - tally["survived"] for tally in tallies)
    tried = sum(tally["tried"] for tally in tallies)
    wrong = len(found["damages"]["wrong"])
    print(f"{tried} faults, {lost} not survived; {options.damages} damages, {wrong} not found")
    return int(bool(lost or wrong))


if __name__ == "__main__":
    sys.exit(main())
