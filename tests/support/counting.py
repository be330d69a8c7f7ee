"""Count what long campaigns find: JSON that an interrupted one resumes, and tables in pages."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def resumed(out: Path, **asked: Any) -> dict[str, Any]:
    """Return the counts in `out` of an interrupted campaign, else those of one that begins."""
    if not out.is_file():
        return {"commit": commit(), **asked}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if {name: found.get(name) for name in asked} != asked:
        raise SystemExit(f"{out} is of another run: name another file")
    return found


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write counts, atomically."""
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], texts: int = 1) -> str:
    """Write a Markdown table whose first `texts` columns are text; whole numbers get commas."""

    def cell(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)

    rule = "|" + "---|" * texts + "---:|" * (len(head) - texts)
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", rule, *lines])


def fill(page: str, parts: Mapping[str, str]) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` of a page."""
    for name, part in parts.items():
        page, count = re.subn(
            rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)",
            lambda _, part=part: f"\n{part}\n\n",
            page,
            flags=re.DOTALL,
        )
        assert count == 1, f"the page has {count} places for {name}"
    return page
