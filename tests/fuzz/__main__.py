"""``python -m tests.fuzz``: millions of hostile files, counted; not part of the installation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fuzzing.campaign import all_readers, as_table, case_of, run, scratch
from fuzzing.check import FAULTS, judge


def main() -> int:
    """Run the cases that are asked for; 1 where a reader is at fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="cases in all (100000)")
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"), help="JSON of the counts")
    parser.add_argument("--reader", action="append", help="only readers of which this is a part")
    parser.add_argument("--first", type=int, default=0, help="number of each reader's first case")
    parser.add_argument("--memory", type=int, default=8, help="watch it in one of so many blocks")
    parser.add_argument("--case", type=int, help="judge this one case and show it")
    parser.add_argument("--atheris", action="store_true", help="search one reader by coverage")
    parser.add_argument("--table", action="store_true", help="print the counts in --out, no run")
    options = parser.parse_args()
    if options.table:
        print(as_table(json.loads(options.out.read_text(encoding="utf-8"))), end="")
        return 0
    readers = [
        reader
        for reader in all_readers()
        if not options.reader or any(part in reader.name for part in options.reader)
    ]
    if options.atheris:
        from fuzzing.coverage_guided import explore

        if len(readers) != 1:
            parser.error("--atheris takes one --reader")
        explore(readers[0], runs=options.cases)
        return 0
    if options.case is not None:
        for reader in readers:
            case = case_of(reader, reader.seeds(), options.case)
            for name, content in case.items():
                print(f"{reader.name}, {name}: {content!r:.2000}")
            with scratch() as folder:
                print(judge(reader, case, folder))
        return 0
    found = run(readers, options.cases, options.out, first=options.first, memory=options.memory)
    print(found["total"])
    return int(any(found["total"][kind] for kind in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
