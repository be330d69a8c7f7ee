"""Write the page of counts, with ``--run`` also count: ``python -m tests.reliability``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from reliability_page import CAMPAIGNS, as_page, shortened

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Write the page, and the counts it was made from beside it; 1 where a campaign found faults.

    A campaign that is cut off goes on where it was.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--run", type=Path, help="run all campaigns, JSON in this folder")
    for name in CAMPAIGNS:
        parser.add_argument(f"--{name}", type=Path, help=f"JSON of python -m tests.{name}")
    parser.add_argument("--out", type=Path, default=Path("docs/reliability.md"), help="the page")
    options = parser.parse_args()
    status = 0
    if options.run is not None:
        options.run.mkdir(parents=True, exist_ok=True)
        for name, arguments in CAMPAIGNS.items():
            file = options.run / f"{name}.json"
            setattr(options, name, file)
            command = [sys.executable, "-m", f"tests.{name}", *arguments, "--out", file.absolute()]
            status |= subprocess.run(command, cwd=ROOT, check=False).returncode
    stored = options.out.with_suffix(".json")
    counts = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    for name in CAMPAIGNS:
        given = getattr(options, name)
        if given is not None:
            counts[name] = shortened(json.loads(given.read_text(encoding="utf-8")))
    if all(getattr(options, name) is not None for name in CAMPAIGNS):
        counts.pop("note", None)  # of counts that an earlier version of the campaigns made
    if missing := CAMPAIGNS.keys() - counts.keys():
        parser.error(f"{stored} has no counts of {' and '.join(sorted(missing))}: give them")
    stored.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    options.out.write_text(as_page(counts), encoding="utf-8")
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
