"""The commands that faults are injected into, and what of their folders must come out equal.

All is compared, byte for byte or number for number, but these fields, which are times: ``seconds``
in a run's ``metrics.jsonl``; ``milliseconds`` in ``leaderboard.json``, in ``leaderboard.md`` and in
``leaderboard.html``, which also has identifiers drawn at random; ``finetuning_seconds`` in the
records of a fine-tuned model's tables. Checkpoints are compared as
numbers, because the names of the files that Orbax makes are drawn at random.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["WORKS", "Work", "damaged_checkpoints", "leftovers", "look", "prepare", "write_reviews"]

TIMES = ("milliseconds", "milliseconds_said")
_SECONDS = re.compile(rb'("?finetuning_seconds"?: )[\d.e-]+')
# What Bokeh draws at random for each page, and the hashes of scripts that hold them.
_DRAWN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|sha256-[A-Za-z0-9+/=]+")

IN_RUNS = ("checkpoints", "model", "metrics.jsonl")  # which are not compared file by file

SIZE = 1_500  # training sentences of a corpus that is prepared


@dataclasses.dataclass(frozen=True)
class Work:
    """A command, run in a folder of its own.

    Attributes
    ----------
    name
        Its name in the counts.
    argv
        The command; ``{inputs}`` stands for the folder with the corpus and a finished run.
    out
        The folder that it fills.
    run
        The training run in that folder, or None.
    needs
        The function here that is given ``{inputs}`` once, to write there what else is read.
    """

    name: str
    argv: tuple[str, ...]
    out: str
    run: str | None = None
    needs: str | None = None

    def job(self, inputs: Path, folder: Path) -> dict[str, Any]:
        """Return the job for a `faulting.server.Server`."""
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
    """Return what lies in a work's folder under its final name: name -> a digest of what it says.

    Raises
    ------
    AssertionError
        If a file there is not whole.
    """
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
    """Let no sentence be in two shards, and the tables' be those of all shards."""
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
    """Return what lies in a folder beside final names."""
    folder = Path(out)
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if _hidden(path.name) or path.name.startswith("incomplete.") or "orbax-check" in path.name
    )


def damaged_checkpoints(run: str, scratch: str, count: int) -> dict[str, Any]:
    """Try `faulting.damages.try_damages`."""
    from faulting.damages import try_damages

    return try_damages(run, scratch, count)


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
