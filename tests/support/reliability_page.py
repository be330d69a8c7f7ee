"""Write what the campaigns counted into the page of their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import counting
from faulting import KINDS, WORKS
from fuzzing.harness import FAULTS, as_table, total
from numeric_limits import as_section


def as_parts(counts: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of the page, of one or more campaigns, by their names in it."""
    writers = {"faults": _faults, "fuzz": _fuzz, "numbers": as_section}
    return {
        name: f"Counted at commit {found['commit']}.\n\n{part}"
        for campaign, found in counts.items()
        for name, part in writers[campaign](found).items()
    }


def _faults(found: Mapping[str, Any]) -> dict[str, str]:
    names, damages = ("tried", "struck", "survived"), found["damages"]
    rows = [
        (what, work.name, *(found["faults"][kind][work.name][name] for name in names))
        for kind, (what, _) in KINDS.items()
        for work in WORKS
        if work.name in found["faults"].get(kind, {})
    ]
    sums = [sum(row[column] for row in rows) for column in (2, 3, 4)]
    head = ("fault", "command", "tried", "in time", "survived")
    survived = damages["tried"] - len(damages["wrong"])
    return {
        "faults": counting.table(head, [*rows, ("all", "", *sums)], texts=2),
        "damages": f"Every file of a checkpoint was truncated at every 4 KiB boundary, from length "
        f"0 on ({damages['cut']:,} cases), and a random bit of a file flipped ({damages['flip']:,} "
        f"cases). In {survived:,} of {damages['tried']:,} cases the damage was found and reported "
        "in one line, the damaged checkpoint was moved, and the one before was used.",
    }


def _fuzz(found: Mapping[str, Any]) -> dict[str, str]:
    sums = total(found)
    failed = sum(sums[kind] for kind in FAULTS)
    return {"fuzz": f"{sums['cases']:,} files, {failed:,} failed.\n\n{as_table(found)}"}
