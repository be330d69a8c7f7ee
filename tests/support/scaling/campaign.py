"""Evaluations of several sizes, devices and processes, measured one after the other."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from scaling.corpora import MODEL, Place
from scaling.watch import Sample, Seen, evaluate

__all__ = ["SHARES", "exponent", "measured", "run"]

#: Sizes of the corpora, as shares of the largest.
SHARES = (16, 4, 1)
#: Devices and processes that share a quarter of the sentences, each with a core of its own.
_TOGETHER = ((1, 1), (2, 1), (1, 2))


def run(
    sentences: int,
    shards: int,
    out: Path,
    *,
    folder: Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure and write JSON after each step; a step that is there already is not made again.

    Parameters
    ----------
    sentences, shards
        Of the largest corpus; shards of the others hold as many sentences each.
    out
        The JSON file.
    folder
        For corpora and results, kept; a temporary one if None.
    report
        Told what is measured next.

    Returns
    -------
    dict
        What is in the file: ``method``, ``growth`` (by size, the largest the last) and ``together``
        (by devices and processes), each record as `measured` makes it, and ``exponents``.
    """
    asked = {"sentences": sentences, "shards": shards}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if found.get("asked") != asked:
        found = {"asked": asked, "growth": {}, "together": {}}
    found["method"] = _method()
    each = sentences // shards  # sentences of a shard

    with tempfile.TemporaryDirectory() as name:
        place = Place(folder or Path(name))
        report("training the encoder")
        place.train()

        def measure(kind: str, key: str, size: int, **options: int) -> None:
            if key in found[kind]:
                return
            report(f"{kind}: {key}")
            data, results = place.corpus(size), place.folder / "evaluation"
            shutil.rmtree(results, ignore_errors=True)
            cut = max(size // each, 1)
            arguments = (place.run, "--data", data, "--shards", cut)
            seen = evaluate(arguments, results, place.environment, **options)
            found[kind][key] = measured(seen, size, cut)
            _write(out, found)

        for share in SHARES:
            size = sentences // share
            measure("growth", str(size), size)
        for devices, processes in _TOGETHER:
            options = {"devices": devices, "processes": processes, "cores": devices}
            measure("together", f"{devices}x{processes}", sentences // 4, **options)
    records = list(found["growth"].values())
    sizes = [record["sentences"] for record in records]
    found["exponents"] = {
        name: exponent(sizes, [record[name] for record in records])
        for name in ("work_processor", "last_processor", "memory_work", "memory_last")
    }
    _write(out, found)
    return found


def measured(seen: Seen, sentences: int, shards: int) -> dict[str, Any]:
    """Say what was seen in numbers.

    Returns
    -------
    dict
        ``seconds`` and ``processor``, in all; ``rate`` and ``rate_processor``, sentences a second
        of the clock and of processor time between the first tenth of the shards and the last one;
        ``start_processor``, seconds of processor time until the first shard's end;
        ``work_processor``, those of all shards at the pace of the ones behind the first, None
        where there are none; ``last_processor``, those after the last; ``last_seconds``, the same
        by the clock; ``tenths``,
        the resident bytes when each tenth of the shards was there; ``memory_work`` and
        ``memory_last``, the most before and after the last shard was there.

    Raises
    ------
    ValueError
        If the shards were not all seen.
    """
    tenths = [_first(seen.samples, max(1, math.ceil(shards * k / 10))) for k in range(1, 11)]
    one, first, last = _first(seen.samples, 1), tenths[0], tenths[-1]
    done = (last.shards - first.shards) * sentences / shards
    pace = (last.processor - one.processor) / max(last.shards - one.shards, 1)
    after = [sample.memory for sample in seen.samples if sample.seconds >= last.seconds]
    return {
        "sentences": sentences,
        "shards": shards,
        "seconds": round(seen.seconds, 2),
        "processor": round(seen.processor, 2),
        "rate": _per(done, last.seconds - first.seconds),
        "rate_processor": _per(done, last.processor - first.processor),
        "start_processor": round(one.processor, 2),
        "work_processor": round(pace * shards, 2) if shards > 1 else None,
        "last_processor": round(seen.processor - last.processor, 2),
        "last_seconds": round(seen.seconds - last.seconds, 2),
        "tenths": [sample.memory for sample in tenths],
        "memory_work": max(s.memory for s in seen.samples if s.seconds <= last.seconds),
        "memory_last": max(after),
    }


def exponent(sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Return k of ``values ∝ sizes**k``, fitted by least squares of the logarithms."""
    known = [(size, value) for size, value in zip(sizes, values, strict=True) if value]
    if len({size for size, _ in known}) < 2:
        return None
    logarithms = np.log(known).T
    return round(float(np.polyfit(*logarithms, 1)[0]), 3)


def _first(samples: Sequence[Sample], shards: int) -> Sample:
    for sample in samples:
        if sample.shards >= shards:
            return sample
    raise ValueError(f"{shards} shards were never seen while the evaluation ran")


def _per(count: float, seconds: float) -> float | None:
    return round(count / seconds, 1) if count and seconds > 0 else None


def _method() -> dict[str, Any]:
    return {
        "model": MODEL,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: metadata.version(name) for name in ("jax", "numpy", "pyarrow")},
        "look": "resident set of /proc/PID/statm, twenty times a second",
    }


def _write(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(out)
