"""Measure errors against their bounds on several Pythons: ``python -m tests.numbers``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from numeric_limits import measure


def main() -> int:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.numbers", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("numbers.json"), help="JSON")
    parser.add_argument("--tokens", type=int, default=4096, help="of the large attention (4096)")
    parser.add_argument(
        "--python", action="append", help="a further interpreter that has the same packages"
    )
    options = parser.parse_args()
    found = measure([sys.executable, *(options.python or ())], options.tokens)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
