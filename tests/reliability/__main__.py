"""Run campaigns and write their counts into docs/reliability.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import counting
import faulting
import fuzzing.harness
import numeric_limits
from fuzzing.readers import READERS
from reliability_page import as_parts

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> None:
    """Run the campaigns that are asked for; one that was cut off goes on where it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("campaigns", nargs="*", help="fuzz, faults, numbers; by default all")
    parser.add_argument("--count", type=int, help="cases in all of fuzz (1,050,000), faults (240)")
    parser.add_argument("--reader", default="", help="only readers of which this is a part")
    parser.add_argument("--python", action="append", default=[], help="a further interpreter")
    parser.add_argument("--counts", type=Path, default=Path("counts"), help="folder of the JSON")
    options = parser.parse_args()
    options.counts.mkdir(parents=True, exist_ok=True)
    for name in options.campaigns or ("fuzz", "faults", "numbers"):
        out = options.counts / f"{name}.json"
        if name == "fuzz":
            readers = [reader for reader in READERS if options.reader in reader.name]
            found = fuzzing.harness.run(readers, options.count or 1_050_000, out)
        elif name == "faults":
            found = faulting.run(options.count or 240, out)
        else:
            found = numeric_limits.measure([sys.executable, *options.python])
            found["commit"] = counting.commit()
            counting.write(out, found)
        page = counting.fill(PAGE.read_text(encoding="utf-8"), as_parts({name: found}))
        PAGE.write_text(page, encoding="utf-8")
        print(json.dumps(as_parts({name: found}), indent=1))


if __name__ == "__main__":
    main()
