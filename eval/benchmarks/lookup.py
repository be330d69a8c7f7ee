"""Finding things in a benchmark's record."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

__all__ = ["Entry", "contender", "find", "over"]

Entry = Mapping[str, Any]


def find(record: Entry, **settings: Any) -> list[Entry]:
    """Return the comparisons that have these settings; `benchmark` is one more of them."""
    return [
        comparison
        for comparison in record["comparisons"]
        if all(
            {**comparison["settings"], "benchmark": comparison["benchmark"]}.get(name) == value
            for name, value in settings.items()
        )
    ]


def contender(comparison: Entry, name: str) -> Entry | None:
    """Return what a contender took, None where it did not take part."""
    return next((entry for entry in comparison["contenders"] if entry["name"] == name), None)


def over(entry: Entry, base: Entry) -> float:
    """Return one contender's time over another's, as `jaxflow.eval.benchmarks.timing.ratio`."""
    pairs = zip(
        entry["parts"] or [entry["seconds"]], base["parts"] or [base["seconds"]], strict=False
    )
    return median(seconds / other for seconds, other in pairs)
