"""How the time of a table grows with tokens and layers, for the kernel and every peer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxflow.eval.benchmarks.flow_plan import FlowPlan, Growth, attention_for
from jaxflow.eval.benchmarks.flow_table import TableSetup, compare_tables
from jaxflow.eval.benchmarks.record import Comparison, is_own

__all__ = ["fit_slope", "run_growth"]


def fit_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the power of the size with which time grows: the slope of a line through the logs.

    >>> fit_slope([1, 10, 100], [3, 300, 30000])
    2.0
    """
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return round(float(slope), 12)


def run_growth(growth: Growth, plan: FlowPlan, setup: TableSetup) -> Iterator[Comparison]:
    """Yield a comparison for every size; the last one has the slopes in its settings.

    A peer that ran out of the plan's patience at one size is left out of those above.
    """
    # Each size decides for itself who is too slow for the next.
    setup = dataclasses.replace(setup, limit=False)
    left_out: dict[str, str] = {}
    points: dict[str, list[tuple[int, float]]] = {}
    for value in growth.values:
        work = growth.at(value)
        comparison = compare_tables(
            attention_for(work, min(4, plan.sentences_for(work)), None),
            work.source,
            work.kind,
            setup,
            left_out=left_out,
            settings={"measure": "growth", "axis": growth.axis},
        )
        for timing in comparison.timings:
            points.setdefault(timing.name, []).append((value, timing.seconds))
            if timing.seconds > plan.patience and not is_own(timing.name):
                left_out[timing.name] = (
                    f"left out, took {timing.seconds:.2g} s at {value} {growth.axis}"
                )
        yield _with_slopes(comparison, points) if value == growth.values[-1] else comparison


def _with_slopes(
    comparison: Comparison, points: Mapping[str, Sequence[tuple[int, float]]]
) -> Comparison:
    slopes = {}
    notes = list(comparison.notes)
    axis = comparison.settings["axis"]
    for name, pairs in points.items():
        if len(pairs) > 1:
            sizes, seconds = zip(*pairs, strict=True)
            slopes[name] = {"slope": fit_slope(sizes, seconds), "from": sizes[0], "to": sizes[-1]}
            notes.append(
                f"{name}: time grows with the {axis} to the power of {slopes[name]['slope']:.2f} "
                f"(log-log slope, {sizes[0]} to {sizes[-1]})"
            )
    return dataclasses.replace(
        comparison, settings={**comparison.settings, "slopes": slopes}, notes=tuple(notes)
    )
