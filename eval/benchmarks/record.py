"""What a benchmark found: records, their JSON form, and how they are printed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflow.errors import InputError
from jaxflow.eval.benchmarks.figures import bytes_text, error_text, ratio_text, seconds_text
from jaxflow.eval.benchmarks.machine import describe_machine, peer_versions
from jaxflow.eval.benchmarks.timing import METHOD, Timing, ratio
from jaxflow.eval.paper.evaluate import versions
from jaxflow.eval.report.text import json_text, to_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "FORMAT",
    "Comparison",
    "as_json",
    "is_own",
    "print_comparison",
    "read_record",
    "record",
]

FORMAT = "jaxflow-benchmark-2"


def is_own(name: str) -> bool:
    """Whether a contender is the project's; all others are other people's."""
    return name.startswith("jaxflow")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several ways of doing one piece of work.

    Attributes
    ----------
    benchmark
        ``flow``, ``rollout``, ``train`` or ``models``.
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
        return tuple(ratio(timing, self.timings[0]) for timing in self.timings)


def record(
    comparisons: Sequence[Comparison], machine: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Turn comparisons into what JSON has.

    Parameters
    ----------
    comparisons
        What was found.
    machine
        What `describe_machine` said before; by default what it says now.

    Returns
    -------
    dict
        ``{"format": "jaxflow-benchmark-2", "method", "machine", "versions", "comparisons"}``.
        Each comparison has ``benchmark``, ``work``, ``settings``, ``reference``, ``missing``
        (peer -> reason), ``notes`` and ``contenders``: objects ``{"name", "seconds", "fastest",
        "rounds", "first_call", "error", "peak_memory", "parts", "ratio"}``, the project first,
        times in seconds, memory in bytes, the ratio to the first contender's time, null for what
        was not measured.
    """
    return {
        "format": FORMAT,
        "method": METHOD,
        "machine": to_json(describe_machine() if machine is None else machine),
        "versions": {**versions(), **peer_versions()},
        "comparisons": [
            {
                "benchmark": comparison.benchmark,
                "work": comparison.work,
                "settings": to_json(comparison.settings),
                "reference": comparison.reference,
                "contenders": [
                    to_json(timing) | {"ratio": times}
                    for timing, times in zip(comparison.timings, comparison.ratios, strict=True)
                ],
                "missing": dict(comparison.missing),
                "notes": list(comparison.notes),
            }
            for comparison in comparisons
        ],
    }


def as_json(comparisons: Sequence[Comparison], machine: Mapping[str, Any] | None = None) -> str:
    """Write comparisons as strict JSON text, `record`'s form."""
    return json_text(record(comparisons, machine))


def read_record(path: Path) -> dict[str, Any]:
    """Read what `as_json` wrote.

    Raises
    ------
    InputError
        If there is no such file or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read a benchmark's record from {path}: {error}") from error
    form = found.get("format") if isinstance(found, dict) else None
    if form != FORMAT:
        raise InputError(f"{path} must be a benchmark's record of format {FORMAT}, got {form!r}")
    return found


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one comparison as a table."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"{comparison.benchmark}: {comparison.work}", style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    titles = ("", "median", "ratio", "fastest", "rounds", "first call", "peak memory", "error")
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for timing, times in zip(comparison.timings, comparison.ratios, strict=True):
        table.add_row(
            timing.name,
            seconds_text(timing.seconds),
            ratio_text(times),
            seconds_text(timing.fastest),
            str(timing.rounds),
            seconds_text(timing.first_call),
            bytes_text(timing.peak_memory),
            error_text(timing.error),
        )
    console.print(table)
    lines = list(_ratio_lines(comparison.timings))
    if comparison.reference:
        lines.append(f"error: largest absolute difference from {comparison.reference}")
    lines += [f"{peer}: {reason}" for peer, reason in comparison.missing.items()]
    for line in (*lines, *comparison.notes):
        console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    console.print()


def _ratio_lines(timings: Sequence[Timing]) -> list[str]:
    """Say what ratios are to, and what the peers' are to the project's other ways."""
    first, *others = timings
    lines = [f"ratio: time over that of {first.name}"] if others else []
    peers = [timing for timing in others if not is_own(timing.name)]
    for own in others:
        if is_own(own.name) and peers:
            listed = ", ".join(f"{peer.name} {ratio_text(ratio(peer, own))}" for peer in peers)
            lines.append(f"over that of {own.name}: {listed}")
    return lines
