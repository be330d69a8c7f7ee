"""Measure how an evaluation in shards scales, and write the tables of docs/scale.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import counting
import scaling

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--sentences", type=int, default=200_000, help="test sentences (200,000)")
    parser.add_argument("--shards", type=int, default=80, help="shards of all of them (80)")
    parser.add_argument("--out", type=Path, default=Path("scale.json"), help="JSON of the numbers")
    options = parser.parse_args()
    found = scaling.run(options.sentences, options.shards, options.out)
    page = counting.fill(PAGE.read_text(encoding="utf-8"), scaling.as_parts(found))
    PAGE.write_text(page, encoding="utf-8")
