"""``python -m tests.reliability``: the page of counts, from what the other two commands wrote."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from reliability_page import as_page, shortened


def main() -> int:
    """Write the page, and the counts it was made from beside it."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--fuzz", type=Path, help="JSON of python -m tests.fuzz")
    parser.add_argument("--faults", type=Path, help="JSON of python -m tests.faults")
    parser.add_argument("--out", type=Path, default=Path("docs/reliability.md"), help="the page")
    options = parser.parse_args()
    stored = options.out.with_suffix(".json")
    counts = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    for name in ("fuzz", "faults"):
        given = getattr(options, name)
        if given is not None:
            counts[name] = shortened(json.loads(given.read_text(encoding="utf-8")))
    if missing := {"fuzz", "faults"} - counts.keys():
        parser.error(f"{stored} has no counts of {' and '.join(sorted(missing))}: give them")
    stored.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    options.out.write_text(as_page(counts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
