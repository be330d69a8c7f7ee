"""Record comparisons of several implementations as JSON and as tables."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflow.eval.benchmarks.timing import METHOD, Timing, ratio
from jaxflow.eval.report.table import Column, Table
from jaxflow.eval.report.text import to_json, versions

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = "jaxflow-benchmark-3"
_PEERS = ("torch", "transformers", "igraph", "ortools")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The timings of several implementations of one piece of work."""

    benchmark: str  # flow, rollout, train or models
    work: str  # the work in words
    settings: Mapping[str, Any]  # the work in numbers
    timings: tuple[Timing, ...]  # the project's own way first
    reference: str = ""  # what errors are measured against
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # peer -> the reason
    notes: tuple[str, ...] = ()


def describe_machine() -> dict[str, Any]:
    """Return ``{"processor", "cores", "memory", "system", "load"}``; memory in bytes or None."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    linux = hasattr(os, "sched_getaffinity")
    return {
        "processor": next(iter(names), platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if linux else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if linux else None,
        "system": platform.platform(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def to_record(comparisons: Sequence[Comparison], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return comparisons as JSON values.

    Returns
    -------
    dict
        ``{"format", "method", "machine", "versions", "comparisons"}``. Each comparison has the
        fields of `Comparison`, but for ``timings``: its ``contenders`` are objects with the
        fields of `Timing` and ``ratio``, the time over that of the first. Times are in seconds,
        memory in bytes, null is what was not measured.
    """
    packages = {}
    for package in _PEERS:
        try:
            packages[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    entries = []
    for comparison in comparisons:
        entry = to_json(comparison)
        entry["contenders"] = [
            to_json(timing) | {"ratio": ratio(timing, comparison.timings[0])}
            for timing in comparison.timings
        ]
        del entry["timings"]
        entries.append(entry)
    return {
        "format": FORMAT,
        "method": METHOD,
        "machine": to_json(machine),
        "versions": {**versions(), **packages},
        "comparisons": entries,
    }


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one comparison as a table with its notes."""
    base = comparison.timings[0]
    head = (
        "",
        Column("median", seconds_text),
        Column("ratio", ratio_text),
        Column("fastest", seconds_text),
        Column("rounds"),
        Column("first call", seconds_text),
        Column("peak memory", bytes_text),
        Column("error", lambda error: f"{error:.1e}" if error else "0"),
    )
    rows = [
        (one.name, one.seconds, ratio(one, base), one.fastest, one.rounds, one.first_call,
         one.peak_memory, one.error)
        for one in comparison.timings
    ]  # fmt: skip
    console.print(f"{comparison.benchmark}: {comparison.work}", style="bold", soft_wrap=True)
    Table.of(head, rows).print(console)
    lines = [f"ratio: time over that of {base.name}"]
    if comparison.reference:
        lines.append(f"error: largest absolute difference from {comparison.reference}")
    lines += [f"{peer}: {reason}" for peer, reason in comparison.missing.items()]
    for line in (*lines, *comparison.notes):
        console.print(f"  {line}", style="dim", soft_wrap=True, markup=False)
    console.print()


def seconds_text(seconds: float) -> str:
    """Write three figures in s, ms or µs."""
    unit, size = ("s", 1) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)
    return f"{_three(seconds / size)} {unit}"


def ratio_text(ratio: float) -> str:
    """Write a ratio: whole from 100, three figures below."""
    return f"{_three(ratio)}x"


def bytes_text(count: int) -> str:
    """Write a size in MB or kB."""
    return f"{_three(count / 1e6)} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
