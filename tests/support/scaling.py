"""Measure evaluations in shards of several sizes, and write the page of results."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from many_devices import environment

from jaxflow.train.grammar import generate

#: What the encoder is: the device's part of a sentence is small beside the host's.
MODEL = {"layers": 1, "heads": 2, "width": 16}
#: Sizes of the corpora, as shares of the largest; devices and processes that share a quarter of it.
SHARES, TOGETHER = (16, 4, 1), ((1, 1), (2, 1), (1, 2))
_PREPARE = "import sys; from jaxflow.train.corpus import open_corpus; open_corpus('simple', {!r})"
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """One measurement: seconds by clock and processor, bytes of the largest process, shards."""

    seconds: float
    processor: float
    memory: int
    shards: int


class Seen(NamedTuple):
    """The measurements of an evaluation until all its processes had ended."""

    samples: tuple[Sample, ...]
    seconds: float
    processor: float


def _call(folder: Path, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**environment(), "XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}")


def make_corpus(folder: Path, sentences: int) -> Path:
    """Write a corpus with so many test sentences, if it is not there, and prepare it.

    That is done by a process of its own: it holds all rows in memory, which would be counted.
    """
    corpus = folder / f"corpus-{sentences}"
    if not corpus.exists():
        part = corpus.with_name(f".{corpus.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        for seed, name, rows in ((0, "train", 4_096), (1, "val", 64), (9, "test", sentences)):
            with (part / f"numpred.{name}").open("w", encoding="utf-8") as file:
                for example in islice(generate((23, seed), None), rows):
                    file.write(f"{('VBZ', 'VBP')[example.label]}\t{example.prefix}\n")
        part.rename(corpus)
        _call(folder, "-c", _PREPARE.format(str(corpus)))
    return corpus


def train_encoder(folder: Path) -> Path:
    """Train the encoder for a few steps, if that was not done."""
    if not (folder / "run" / "model").exists():
        options = [f"--{name}={value}" for name, value in MODEL.items()]
        data = make_corpus(folder, 64)
        train = ("-m", "jaxflow", "train", "--data", data, "--out", folder / "run", "--epochs", "1")
        _call(folder, *train, *options)
    return folder / "run"


def evaluate(
    arguments: Sequence[object],
    out: Path,
    more: Mapping[str, str],
    *,
    devices: int = 1,
    processes: int = 1,
    cores: int | None = None,
    every: float = 0.05,
) -> Seen:
    """Run ``jaxflow evaluate`` with `arguments` into `out` and measure it, `every` seconds.

    `more` is of the environment; `devices` of each of the `processes`, confined to `cores` of its
    own. Several processes write no tables.
    """
    command = [sys.executable, "-m", "jaxflow", "evaluate", *map(str, arguments), "--out", str(out)]
    free = sorted(os.sched_getaffinity(0))
    before, begun = _children(), time.monotonic()
    started = []
    for index in range(processes):
        mine = command
        if processes > 1:
            mine = [*command, "--processes", str(processes), "--process", str(index)]
        child = subprocess.Popen(
            mine,
            env={**environment(devices), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if cores is not None:  # before it has made its first thread, which inherits this
            places = [free[(index * cores + k) % len(free)] for k in range(cores)]
            os.sched_setaffinity(child.pid, places)
        started.append(child)
    samples: list[Sample] = []
    last = [(0.0, 0)] * processes  # of those that have ended
    running = True
    while running:
        running = any([child.poll() is None for child in started])  # once more when all have ended
        last = [_look(child.pid) or look for child, look in zip(started, last, strict=True)]
        shards = len(list((out / "shards").glob("shard-*.parquet")))
        processor, memory = sum(p for p, _ in last), max(m for _, m in last)
        samples.append(Sample(time.monotonic() - begun, processor, memory, shards))
        time.sleep(every if running else 0)
    seconds = time.monotonic() - begun
    for child in started:
        _, said = child.communicate()
        if child.returncode:
            raise RuntimeError(f"{command} ended with {child.returncode}: {said[-2000:]}")
    return Seen(tuple(samples), seconds, _children() - before)


def _look(process: int) -> tuple[float, int] | None:
    """Return a process's processor time in seconds and its resident bytes; None if it has ended."""
    try:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
        # The name in brackets may hold blanks: fields are counted from behind it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return ((int(fields[11]) + int(fields[12])) / _TICKS, resident) if resident else None


def _children() -> float:
    """Return the processor time of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run(
    sentences: int,
    shards: int,
    out: Path,
    *,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure and write JSON after each step; a step that is there already is not made again."""
    asked = {"sentences": sentences, "shards": shards}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if found.get("asked") != asked:
        found = {"asked": asked, "growth": {}, "together": {}}
    found["method"] = _method()
    each = sentences // shards  # sentences of a shard

    with tempfile.TemporaryDirectory() as name:
        home = folder or Path(name)
        run_folder = train_encoder(home)

        def measure(kind: str, key: str, size: int, **options: int) -> None:
            if key in found[kind]:
                return
            print(f"{kind}: {key}")
            data, results = make_corpus(home, size), home / "evaluation"
            shutil.rmtree(results, ignore_errors=True)
            cut = max(size // each, 1)
            arguments = (run_folder, "--data", data, "--shards", cut)
            seen = evaluate(
                arguments,
                results,
                {"XDG_CACHE_HOME": str(home / "cache"), "NO_COLOR": "1"},
                **options,
            )
            found[kind][key] = measured(seen, size, cut)
            _write(out, found)

        for share in SHARES:
            size = sentences // share
            measure("growth", str(size), size)
        for devices, processes in TOGETHER:
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
    """Return what was seen in numbers, times in seconds.

    ``rate`` and ``rate_processor`` are sentences a second between the first tenth of the shards and
    the last; ``work_processor`` is of all shards at the pace of those after the first;
    ``memory_work`` and ``memory_last`` are the most before and after the last shard was there.
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


INTRODUCTION = """\
# Scale

`jaxflow evaluate --shards` was run in separate processes, as by a user. Another process measured
their resident memory twenty times a second, their processor time and the number of finished
shards. The encoder is tiny ({layers} layer, {heads} heads, width {width}), so the measurement
shows the work outside the model: reading, flow, correlations, files, tables. Sentences are from
the built-in grammar, 10 tokens in the mean. One command writes this page from the numbers in
[scale.json](scale.json).

```sh
python -m tests.scale --sentences {sentences} --shards {shards} --out scale.json
python -m tests.scale --out scale.json --page docs/scale.md
```

Measured on {cores} cores ({machine}) with JAX {jax}, NumPy {numpy} and PyArrow {pyarrow}. If
elapsed time and processor time differ much, other programs were running.
"""

MEMORY = """\
## Memory while shards are computed

{sentences:,} sentences in {shards} shards. Resident memory of the process after each tenth of the
shards:

| {heads} |
|{rule}|
| {cells} |

From the first tenth to the last shard it changed by {growth:+.1f} MB, {bytes:+.0f} bytes a scored
sentence. The peak was {most:.0f} MB while shards were computed and {last:.0f} MB in the last step,
which combines them, draws the bootstrap's resamples and writes the tables.
"""

GROWTH = """\
## Growth with the corpus

Shards of all corpora have the same number of sentences. Times are processor time: “start” until
the first shard was finished (with imports and compilation), “shards” for all shards at the rate
of those after the first, and “last step”. The first evaluation of an installation, possibly the
first row, also compiles the flow kernel, which is then cached: some 40 s and 200 MB.

| sentences | shards | start | shards | last step | a second | memory, shards | last step |
|---:|---:|---:|---:|---:|---:|---:|---:|
"""

EXPONENTS = """
Fitted as a power of the number of sentences, the time of the shards grows with exponent {work},
that of the last step with {last}; peak memory with {memory} while shards are computed and
{memory_last} in the last step. Exponent 1 is linear growth, 0 is no growth.
"""

TOGETHER = """\
## Devices and processes

A quarter of the sentences. Each device has its own core, and each process may use only the cores of
its devices. Several devices of one process are XLA's virtual devices on the host
(`--xla_force_host_platform_device_count`). The last column is sentences a second of processor time.

| processes | devices each | cores | sentences a second | a processor second |
|---:|---:|---:|---:|---:|
"""


def as_page(found: dict[str, Any]) -> str:
    """Write the page in Markdown, of what `scaling.campaign.run` found."""
    records = list(found["growth"].values())
    method = {**found["method"]["model"], **found["method"]["versions"], **found["method"]}
    introduction = INTRODUCTION.format(**method, **found["asked"])
    return "\n".join([introduction, _memory(records[-1]), _growth(found), _together(found)])


def _memory(record: dict[str, Any]) -> str:
    tenths = record["tenths"]
    growth = tenths[-1] - tenths[0]
    return MEMORY.format(
        sentences=record["sentences"],
        shards=record["shards"],
        heads=" | ".join(f"{k}/10" for k in range(1, 11)),
        rule="|".join(["---:"] * 10),
        cells=" | ".join(f"{_mega(value):.1f} MB" for value in tenths),
        growth=_mega(growth),
        bytes=growth / (0.9 * record["sentences"]),
        most=_mega(record["memory_work"]),
        last=_mega(record["memory_last"]),
    )


def _growth(found: dict[str, Any]) -> str:
    lines = [
        f"| {r['sentences']:,} | {r['shards']} | {r['start_processor']:.1f} s "
        f"| {_number(r['work_processor'], '.1f')} s | {r['last_processor']:.1f} s "
        f"| {_number(r['rate_processor'], ',.0f')} | {_mega(r['memory_work']):.0f} MB "
        f"| {_mega(r['memory_last']):.0f} MB |"
        for r in found["growth"].values()
    ]
    fitted = {name: _number(value, ".2f") for name, value in found["exponents"].items()}
    return (
        GROWTH
        + "\n".join(lines)
        + "\n"
        + EXPONENTS.format(
            work=fitted["work_processor"],
            last=fitted["last_processor"],
            memory=fitted["memory_work"],
            memory_last=fitted["memory_last"],
        )
    )


def _together(found: dict[str, Any]) -> str:
    lines = []
    for key, record in found["together"].items():
        devices, processes = map(int, key.split("x"))
        lines.append(
            f"| {processes} | {devices} | {processes * devices} "
            f"| {_number(record['rate'], ',.0f')} | {_number(record['rate_processor'], ',.0f')} |"
        )
    return TOGETHER + "\n".join(lines) + "\n"


def _mega(count: float) -> float:
    return count / 1e6


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
