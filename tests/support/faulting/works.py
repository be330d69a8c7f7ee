"""Define the commands that faults are injected into, and compare their folders.

All is compared, byte for byte or number for number, but times: ``seconds`` in ``metrics.jsonl``,
the milliseconds of the leaderboard, whose page also has identifiers drawn at random, and
``finetuning_seconds``. Checkpoints are compared as numbers: Orbax draws its files' names at random.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

TIMES = ("milliseconds", "milliseconds_said")
_SECONDS = re.compile(rb'("?finetuning_seconds"?: )[\d.e-]+')
# What Bokeh draws at random for each page, and the hashes of scripts that hold them.
_DRAWN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|sha256-[A-Za-z0-9+/=]+")

IN_RUNS = ("checkpoints", "model", "metrics.jsonl")  # which are not compared file by file

SIZE = 1_500  # training sentences of a corpus that is prepared


@dataclasses.dataclass(frozen=True)
class Work:
    """A command, run in a folder of its own.

    `out` is the folder that it fills and `run` a training run in there; ``{inputs}`` in `argv`
    stands for the folder with the corpus and a finished run, to which `needs` is given once.
    """

    name: str
    argv: tuple[str, ...]
    out: str
    run: str | None = None
    needs: str | None = None

    def job(self, inputs: Path, folder: Path) -> dict[str, Any]:
        """Return the job for a server."""
        argv = [part.format(inputs=inputs) for part in self.argv]
        if not argv:
            return {"prepare": True, "cache": str(folder / self.out)}
        return {"argv": argv, "cache": str(inputs / "cache")}


TRAINING = (
    *("--data", "{inputs}/data", "--layers", "1", "--heads", "2", "--width", "16"),
    *("--epochs", "3", "--batch", "32", "--positions", "12", "--attractor-share", "0.25"),
    *("--checkpoint-every", "7"),
)

EVALUATION = ("evaluate", "{inputs}/run", "--out", "out", "--samples", "12")
SHARDS = ("--shards", "4")
BOARD = ("leaderboard", "{inputs}/run", "--out", "out", "--samples", "10")
FINETUNING = (
    *("reproduce", "sst2", "--data", "{inputs}/sst2", "--model", "{inputs}/bare", "--out", "out"),
    *("--epochs", "2", "--batch", "20", "--checkpoint-every", "7", "--threads", "1"),
    *("--samples", "6", "--paper-samples", "6", "--word-dropout", "0.05"),
)

WORKS = (
    Work("train", ("train", "--out", "run", *TRAINING), "run", run=""),
    Work("evaluate", EVALUATION, "out"),
    Work("leaderboard", BOARD, "out"),
    Work("prepare", (), "cache"),
    Work("shards", (*EVALUATION, *SHARDS), "out"),
    Work("finetune", FINETUNING, "out", run="run", needs="write_reviews"),
)


def write_reviews(inputs: str) -> None:
    """Write a corpus of reviews and the random model that is fine-tuned on them."""
    from small_sst2 import tiny_bert, write_corpus

    from jaxflow.models import save_pretrained

    write_corpus(Path(inputs) / "sst2")
    save_pretrained(Path(inputs) / "bare", tiny_bert())


def prepare() -> int:
    """Prepare a corpus as the first training run of a machine does, and return the exit status."""
    from jaxflow.commands._runtime import ended_by_signals
    from jaxflow.errors import InputError
    from jaxflow.stopping import Stopped
    from jaxflow.train.corpus import load_corpus

    try:
        with ended_by_signals():
            load_corpus("synthetic", seed=1, size=SIZE)
    except InputError as error:
        print(f"jaxflow: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"jaxflow: {stop}", file=sys.stderr)
        return 128 + stop.number
    return 0


def look(name: str, out: str) -> dict[str, str]:
    """Return a digest of each file under its final name; raise if one is not whole."""
    folder = Path(out)
    if not folder.exists():
        return {}
    (work,) = (work for work in WORKS if work.name == name)
    run = None if work.run is None else folder / work.run
    found = {} if run is None else _run(run)
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(map(_hidden, parts)):
            continue
        if run is not None and any(path.is_relative_to(run / part) for part in IN_RUNS):
            continue
        if name == "prepare" and any(part.startswith("incomplete.") for part in parts):
            continue
        found["/".join(parts)] = _digest(_content(path))
    if name == "shards":
        _each_once(folder)
    return found


def _each_once(out: Path) -> None:
    """Check that no sentence is in two shards, and that the tables' are those of all shards."""
    import numpy as np
    import pyarrow.parquet as pq

    shards = sorted((out / "shards").glob("shard-*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard)["row"].to_pylist()]
    assert len(rows) == len(set(rows)), f"a sentence is in two shards of {out}"
    if (out / "scores.npz").exists():
        with np.load(out / "scores.npz") as scores:
            assert scores["rows"].tolist() == rows, f"the tables of {out} are not of its shards"


def _hidden(name: str) -> bool:
    return name.startswith(".") and name != ".config"  # which TFDS writes, beside its corpora


def leftovers(out: str) -> list[str]:
    """Return the files of a folder that have no final name."""
    folder = Path(out)
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if _hidden(path.name) or path.name.startswith("incomplete.") or "orbax-check" in path.name
    )


def _run(run: Path) -> dict[str, str]:
    found = {}
    journal = run / "metrics.jsonl"
    if journal.exists():
        text = journal.read_text()
        assert not text or text.endswith("\n"), "a line of the journal is cut off"
        for number, line in enumerate(text.splitlines()):
            entry = json.loads(line)
            entry.pop("seconds")
            found[f"metrics.jsonl line {number}"] = _digest(json.dumps(entry).encode())
    steps = run / "checkpoints"
    for step in sorted(steps.glob("[0-9]*") if steps.exists() else ()):
        if step.name.isdigit():
            found[f"checkpoints/{step.name}"] = _checkpoint(step)
    if (run / "model").exists():
        found["model"] = _model(run / "model")
    return found


def _checkpoint(step: Path) -> str:
    from jaxflow.train.checkpoint import SEAL, _checksum

    if (step / SEAL).exists():
        assert (step / SEAL).read_text() == _checksum(step), f"{step} is not whole"
    return _arrays(step / "default")


def _arrays(folder: Path) -> str:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    digest = hashlib.sha256()
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(folder.absolute())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _model(folder: Path) -> str:
    from jaxflow.models import load

    load(folder)  # which compares all checksums
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _digest(b"".join(path.name.encode() + path.read_bytes() for path in files))


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name in ("tables.json", "tables.md", "config.json"):
        return _SECONDS.sub(rb"\1", content)
    if path.name == "leaderboard.json":
        text = json.dumps(_without_times(json.loads(content)))
        return text.encode()
    if path.name == "leaderboard.md":  # the last column
        return re.sub(rb"\| [\d,.]+ \|$", b"| |", content, flags=re.MULTILINE)
    if path.name == "leaderboard.html":
        text = _DRAWN.sub("", content.decode())
        return "\n".join(map(_line_without_times, text.split("\n"))).encode()
    return content


def _line_without_times(line: str) -> str:
    if not line.lstrip().startswith('{"":{"version"'):
        return line
    return json.dumps(_without_times(json.loads(line)))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        pairs = (isinstance(item, list) and item and item[0] in TIMES for item in value)
        return [_without_times(item) for item, time in zip(value, pairs, strict=True) if not time]
    return value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def damaged_checkpoints(run: str, scratch: str, count: int) -> dict[str, Any]:
    """Damage the last checkpoint of a run repeatedly, and open its checkpoints each time.

    Every file is cut off at every 4 KiB, then random bits are flipped.
    """
    from contextlib import redirect_stderr

    from jaxflow.train.checkpoint import Checkpoints, _checksum

    before, last = sorted((Path(run) / "checkpoints").iterdir(), key=lambda p: int(p.name))[-2:]
    good, numbers = _checksum(before), _arrays(before / "default")
    tried, wrong = {"cut": 0, "flip": 0}, []
    for name, kind, place in _damages(last, count):
        tried[kind] += 1
        folder = Path(scratch) / "checkpoints"
        shutil.rmtree(scratch, ignore_errors=True)
        for step in (before, last):
            shutil.copytree(step, folder / step.name)
        damage(folder / last.name / name, kind, place)
        said: list[str] = []
        printed = io.StringIO()
        try:
            with redirect_stderr(printed):
                checkpoints = Checkpoints(folder, said.append)
                step = checkpoints._manager.latest_step()
                checkpoints.close()
        except Exception as error:
            wrong.append(f"{name}, {kind} at {place}: {error!r}")
            continue
        kept = folder / before.name
        fine = str(step) == before.name and _checksum(kept) == good
        if fine and sum(tried.values()) % 25 == 1:
            fine = _arrays(kept / "default") == numbers
        fine = fine and len(said) == 1 and str(folder / last.name) in said[0]
        fine = fine and not printed.getvalue() and not (folder / last.name).exists()
        if not fine or not (folder.with_name("checkpoints-damaged") / last.name).is_dir():
            wrong.append(f"{name}, {kind} at {place}: {step} is used, said {said}")
    shutil.rmtree(scratch, ignore_errors=True)
    return {"tried": sum(tried.values()), **tried, "wrong": wrong}


def _damages(folder: Path, count: int) -> Iterator[tuple[str, str, int]]:
    """Yield ``(file, kind, place)`` for a checkpoint: all cuts first, then flipped bits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    cuts = [(path, place) for path in files for place in range(0, path.stat().st_size, 4096)]
    for path, place in cuts:
        yield path.relative_to(folder).as_posix(), "cut", place
    rng, flipped = Random("damages"), [path for path in files if path.stat().st_size]
    for number in range(max(count - len(cuts), 0)):
        path = flipped[number % len(flipped)]
        place = rng.randrange(8 * path.stat().st_size)
        yield path.relative_to(folder).as_posix(), "flip", place


def damage(path: Path, kind: str, place: int) -> None:
    """Cut a file off after `place` bytes, or flip bit `place`."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[place:]
    else:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
