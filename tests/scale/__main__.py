"""Measure how an evaluation in shards scales: ``python -m tests.scale``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from scaling import as_page, run


def main() -> int:
    """Measure, or write the page of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--sentences", type=int, default=200_000, help="test sentences (200,000)")
    parser.add_argument("--shards", type=int, default=80, help="shards of all of them (80)")
    parser.add_argument("--out", type=Path, default=Path("scale.json"), help="JSON of the numbers")
    parser.add_argument("--folder", type=Path, help="where corpora are kept; by default nowhere")
    parser.add_argument("--page", type=Path, help="make this page of --out, and measure nothing")
    options = parser.parse_args()
    if options.page is None:
        run(options.sentences, options.shards, options.out, folder=options.folder)
        return 0
    found = json.loads(options.out.read_text(encoding="utf-8"))
    options.page.write_text(as_page(found), encoding="utf-8")
    stored = options.page.with_suffix(".json")
    if stored.absolute() != options.out.absolute():
        stored.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
