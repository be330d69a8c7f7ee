"""Measure evaluations in shards of several sizes, on one device and on two, in processes apart."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import counting
from many_devices import environment

from jaxflow.train.grammar import generate

#: What the encoder is: the device's part of a sentence is small beside the host's.
MODEL = ("--layers", "1", "--heads", "2", "--width", "16", "--epochs", "1")
#: Sizes of the corpora, as shares of the largest; devices and processes that share a quarter of it.
SHARES, TOGETHER = (16, 4, 1), ((1, 1), (2, 1), (1, 2))
_PREPARE = "import sys; from jaxflow.train.corpus import open_corpus; open_corpus('simple', {!r})"


def run_together(home: Path, *commands: tuple[object, ...], devices: int = 1) -> dict[str, float]:
    """Run processes at once, each on cores of its own, one a device.

    Returns ``seconds``, ``processor`` of all together, and ``memory``, the most bytes of one.
    """
    free, begun, ended = sorted(os.sched_getaffinity(0)), time.monotonic(), []
    variables = {**environment(devices), "XDG_CACHE_HOME": str(home / "cache"), "NO_COLOR": "1"}
    started = []
    for index, arguments in enumerate(commands):
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
            # Before it has made its first thread, which inherits this.
            places = [free[(index * devices + k) % len(free)] for k in range(devices)]
            os.sched_setaffinity(child.pid, places)
            started.append((child, os.dup(said.fileno())))
    for child, said_by in started:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        with os.fdopen(said_by, "r+") as file:
            file.seek(0)
            if child.returncode:
                raise RuntimeError(f"it ended with {child.returncode}: {file.read()[-2000:]}")
        ended.append(usage)
    return {
        "seconds": round(time.monotonic() - begun, 2),
        "processor": round(sum(usage.ru_utime + usage.ru_stime for usage in ended), 2),
        "memory": max(usage.ru_maxrss for usage in ended) * 1024,
    }


def make_corpus(home: Path, sentences: int) -> Path:
    """Write a corpus with so many test sentences, if it is not there, and prepare it."""
    corpus = home / f"corpus-{sentences}"
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for seed, name, rows in ((0, "train", 4_096), (1, "val", 64), (9, "test", sentences)):
            with (corpus / f"numpred.{name}").open("w", encoding="utf-8") as file:
                for example in islice(generate((23, seed), None), rows):
                    file.write(f"{('VBZ', 'VBP')[example.label]}\t{example.prefix}\n")
        run_together(home, ("-c", _PREPARE.format(str(corpus))))
    return corpus


def evaluate(
    home: Path, sentences: int, shards: int, devices: int = 1, processes: int = 1
) -> dict[str, float]:
    """Measure an evaluation, after a model was trained for a few steps."""
    run, out, data = home / "run", home / "evaluation", make_corpus(home, sentences)
    if not run.exists():
        train = ("-m", "jaxflow", "train", "--data", make_corpus(home, 64), "--out", run)
        run_together(home, (*train, *MODEL))
        evaluate(home, 64, 1)  # which compiles the flow kernel
    shutil.rmtree(out, ignore_errors=True)
    command = ("-m", "jaxflow", "evaluate", run, "--data", data, "--shards", shards, "--out", out)
    parts = [("--processes", processes, "--process", index) for index in range(processes)]
    commands = [(*command, *part) for part in parts] if processes > 1 else [command]
    found = run_together(home, *commands, devices=devices)
    assert len(list((out / "shards").glob("shard-*.parquet"))) == shards
    return {"sentences": sentences, "shards": shards, **found}


def run(sentences: int, shards: int, out: Path) -> dict[str, Any]:
    """Measure and write JSON after each step; a step that is there already is not made again."""
    found = {"growth": {}, "together": {}}
    found |= counting.resumed(out, sentences=sentences, shards=shards)
    with tempfile.TemporaryDirectory() as name:
        for share in SHARES:
            if str(share) not in found["growth"]:
                sizes = sentences // share, max(shards // share, 1)
                found["growth"][str(share)] = evaluate(Path(name), *sizes)
                counting.write(out, found)
        for devices, processes in TOGETHER:
            key = f"{processes}x{devices}"
            if key not in found["together"]:
                found["together"][key] = evaluate(
                    Path(name), sentences // 4, shards // 4, devices, processes
                )
                counting.write(out, found)
    return found


def as_parts(found: Mapping[str, Any]) -> dict[str, str]:
    """Write the parts of the page of what `run` found."""
    growth = list(found["growth"].values())
    rows = [
        (each["sentences"], each["shards"], f"{each['processor']:.0f} s",
         f"{each['memory'] / 1e6:,.0f} MB",
         None if before is None else round(
             (each["sentences"] - before["sentences"]) / (each["processor"] - before["processor"])))
        for before, each in zip([None, *growth], growth, strict=False)
    ]  # fmt: skip
    together = [
        (*map(int, key.split("x")), f"{each['seconds']:.0f} s", f"{each['processor']:.0f} s")
        for key, each in found["together"].items()
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "numpy", "pyarrow"))
    head = ("sentences", "shards", "processor time", "peak memory", "further sentences a second")
    return {
        "machine": f"Measured at commit {found['commit']} on {os.cpu_count()} cores "
        f"({platform.machine()}) with {versions}.",
        "growth": counting.table(head, rows, texts=0),
        "together": counting.table(
            ("processes", "devices each", "elapsed time", "processor time"), together, texts=0
        ),
    }
