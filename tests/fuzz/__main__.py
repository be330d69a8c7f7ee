"""Read millions of hostile files and count the results: ``python -m tests.fuzz``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fuzzing.harness import FAULTS, case_of, judge, run, scratch
from fuzzing.readers import READERS


def main() -> int:
    """Run the cases that are asked for; 1 where a reader is at fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="cases in all (100000)")
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"), help="JSON of the counts")
    parser.add_argument("--reader", action="append", help="only readers of which this is a part")
    parser.add_argument("--first", type=int, default=0, help="number of each reader's first case")
    parser.add_argument("--case", type=int, help="judge this one case and show it")
    options = parser.parse_args()
    wanted = options.reader or [""]
    readers = [reader for reader in READERS if any(part in reader.name for part in wanted)]
    if options.case is None:
        total = run(readers, options.cases, options.out, options.first)["total"]
        print(total)
        return int(any(total[kind] for kind in FAULTS))
    for reader in readers:
        case = case_of(reader, reader.seeds(), options.case)
        for name, content in case.items():
            print(f"{reader.name}, {name}: {content!r:.2000}")
        with scratch() as folder:
            print(judge(reader, case, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
