"""Comparisons of a benchmark's record as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxflow.eval.benchmarks.figures import bytes_text, error_text, ratio_text, seconds_text
from jaxflow.eval.benchmarks.flow_table import CALL
from jaxflow.eval.benchmarks.lookup import Entry, contender, over

__all__ = ["contender_table", "floor_table", "growth_tables", "markdown_table"]


def contender_table(comparison: Entry) -> str:
    """Write a comparison: a row for each contender."""
    call = contender(comparison, CALL)
    # Elsewhere the call is compared with the kernel only.
    if comparison["settings"].get("measure") != "table":
        call = None
    rows = []
    for entry in comparison["contenders"]:
        ratios = [ratio_text(entry["ratio"])]
        if call is not None:
            ratios.append(ratio_text(over(entry, call)))
        rows.append(
            [
                entry["name"],
                seconds_text(entry["seconds"]),
                *ratios,
                seconds_text(entry["first_call"]),
                bytes_text(entry["peak_memory"]),
                error_text(entry["error"]),
            ]
        )
    titles = ["to the kernel", "to the call"] if call is not None else ["ratio"]
    return markdown_table(["", "median", *titles, "first call", "peak memory", "error"], rows)


def floor_table(found: Sequence[Entry]) -> str:
    """Write what the kernel takes beside one read of its input: a row for each comparison."""
    rows = []
    for comparison in found:
        settings, kernel = comparison["settings"], comparison["contenders"][0]["seconds"]
        rows.append(
            [
                f"{settings['attention']}, L = {settings['layers']}, n = {settings['tokens']}",
                f"{settings['bandwidth'] / 1e9:.3g} GB/s",
                seconds_text(settings["floor_seconds"]),
                seconds_text(kernel),
                ratio_text(kernel / settings["floor_seconds"]),
            ]
        )
    return markdown_table(["", "bandwidth", "floor", "kernel", "kernel over floor"], rows)


def growth_tables(found: Sequence[Entry]) -> Iterator[str]:
    """Write times and peak memory: a row for each contender, a column for each size."""
    axis = found[0]["settings"]["axis"]
    slopes = found[-1]["settings"].get("slopes", {})
    sizes = [f"{'n' if axis == 'tokens' else 'L'} = {one['settings'][axis]}" for one in found]
    names = list(dict.fromkeys(entry["name"] for one in found for entry in one["contenders"]))

    def row(name: str, field: str, write: Any) -> list[str]:
        entries = [contender(one, name) for one in found]
        return ["" if entry is None else write(entry[field]) for entry in entries]

    def error(name: str) -> str:
        entries = [contender(one, name) for one in found]
        errors = [entry["error"] for entry in entries if entry and entry["error"] is not None]
        return error_text(max(errors, default=None))

    def slope(name: str) -> str:
        return f"{slopes[name]['slope']:.2f}" if name in slopes else ""

    yield markdown_table(
        ["median", *sizes, "slope", "largest error"],
        [[name, *row(name, "seconds", seconds_text), slope(name), error(name)] for name in names],
    )
    yield markdown_table(
        ["peak memory", *sizes], [[name, *row(name, "peak_memory", bytes_text)] for name in names]
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
