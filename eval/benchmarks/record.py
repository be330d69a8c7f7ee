"""What a benchmark found: records, their JSON form, and how they are printed."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxflow.eval.benchmarks.timing import METHOD, Timing
from jaxflow.eval.evaluate import versions
from jaxflow.eval.plain import dump, plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMAT", "Comparison", "as_json", "print_comparison", "record"]

FORMAT = "jaxflow-benchmark-1"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several ways of doing one piece of work.

    Attributes
    ----------
    benchmark
        ``flow``, ``rollout`` or ``train``.
    work
        What was done, in words.
    settings
        The same in numbers.
    reference
        What errors are measured against; empty where they are not.
    timings
        The project's own way first.
    missing
        Peer -> why it did not take part.
    notes
        What else a reader must know.
    """

    benchmark: str
    work: str
    settings: Mapping[str, Any]
    reference: str
    timings: tuple[Timing, ...]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each contender's time over the project's own: 10 is ten times slower."""
        return tuple(timing.seconds / self.timings[0].seconds for timing in self.timings)


def record(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Turn comparisons into what JSON has.

    Returns
    -------
    dict
        ``{"format": "jaxflow-benchmark-1", "method", "machine", "versions", "comparisons"}``.
        Each comparison has ``benchmark``, ``work``, ``settings``, ``reference``, ``missing``
        (peer -> reason), ``notes`` and ``contenders``: objects ``{"name", "seconds", "fastest",
        "rounds", "first_call", "error", "ratio"}``, the project first, times in seconds, the
        ratio to the project's time, the error null where it was not measured.
    """
    return {
        "format": FORMAT,
        "method": METHOD,
        "machine": {"cores": os.cpu_count(), "load": list(_load()), "system": platform.platform()},
        "versions": versions(),
        "comparisons": [
            {
                "benchmark": comparison.benchmark,
                "work": comparison.work,
                "settings": plain(comparison.settings),
                "reference": comparison.reference,
                "contenders": [
                    plain(timing) | {"ratio": ratio}
                    for timing, ratio in zip(comparison.timings, comparison.ratios, strict=True)
                ],
                "missing": dict(comparison.missing),
                "notes": list(comparison.notes),
            }
            for comparison in comparisons
        ],
    }


def as_json(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons as strict JSON text, `record`'s form."""
    return dump(record(comparisons))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one comparison as a table."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"{comparison.benchmark}: {comparison.work}", style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for title in ("", "median", "ratio", "fastest", "rounds", "first call", "error"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for timing, ratio in zip(comparison.timings, comparison.ratios, strict=True):
        table.add_row(
            timing.name,
            _time(timing.seconds),
            f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x",
            _time(timing.fastest),
            str(timing.rounds),
            _time(timing.first_call),
            "" if timing.error is None else f"{timing.error:.1e}",
        )
    console.print(table)
    lines = []
    if comparison.reference:
        lines.append(f"error: largest absolute difference from {comparison.reference}")
    lines += [f"{peer}: {reason}" for peer, reason in comparison.missing.items()]
    for line in (*lines, *comparison.notes):
        console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    console.print()


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _load() -> tuple[float, ...]:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):  # not every system has it
        return ()
