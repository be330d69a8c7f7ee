"""What the forward pass of a published model and its loading were to take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxflow.eval.benchmarks.figures import bytes_text, ratio_text, seconds_text
from jaxflow.eval.benchmarks.goal import Goal
from jaxflow.eval.benchmarks.lookup import Entry, contender, find, over
from jaxflow.eval.benchmarks.model_loading import OURS, THEIRS
from jaxflow.eval.benchmarks.models import FORWARD, PEER

__all__ = ["model_goals"]

_SIZES = {"kind": "bert", "layers": 6, "width": 384, "heads": 12}
_FORWARD = 1.3
_SECONDS = 2.0
_MEMORY = 2.5


def model_goals(record: Entry) -> Iterator[Goal]:
    """Yield the three goals; each is of the 6-layer MiniLM's sizes."""
    yield _forward(record)
    yield from _loading(record)


def _forward(record: Entry) -> Goal:
    goal = Goal(
        "6-layer MiniLM with attention, 64 sentences of 64 tokens: our time",
        PEER,
        f"≤ {ratio_text(_FORWARD)}",
    )
    sizes = {"measure": "forward", "batch": 64, "tokens": 64, **_SIZES}
    for comparison in find(record, benchmark="models", **sizes)[:1]:
        own, peer = contender(comparison, FORWARD), contender(comparison, PEER)
        if own is not None and peer is not None:
            ratio = over(own, peer)
            detail = f"{seconds_text(own['seconds'])}, {seconds_text(peer['seconds'])}"
            return dataclasses.replace(
                goal, reached=ratio_text(ratio), met=ratio <= _FORWARD, detail=detail
            )
    return goal


def _loading(record: Entry) -> Iterator[Goal]:
    work = "loading the 6-layer MiniLM"
    clock = Goal(work, "the clock", f"≤ {_SECONDS:g} s")
    memory = Goal(f"{work}: peak memory", "its file", f"≤ {ratio_text(_MEMORY)}")
    for comparison in find(record, benchmark="models", measure="load", **_SIZES)[:1]:
        own, peer = contender(comparison, OURS), contender(comparison, THEIRS)
        if own is None:
            continue
        size = comparison["settings"]["file"]
        clock = dataclasses.replace(
            clock,
            reached=seconds_text(own["seconds"]),
            met=own["seconds"] <= _SECONDS,
            detail="" if peer is None else f"transformers {seconds_text(peer['seconds'])}",
        )
        if own["peak_memory"] is not None:
            detail = f"{bytes_text(own['peak_memory'])} for {bytes_text(size)}"
            if peer is not None and peer["peak_memory"] is not None:
                detail += f", transformers {ratio_text(peer['peak_memory'] / size)}"
            ratio = own["peak_memory"] / size
            memory = dataclasses.replace(
                memory, reached=ratio_text(ratio), met=ratio <= _MEMORY, detail=detail
            )
    yield clock
    yield memory
