"""Inject faults into whole commands, check what they leave, and run them again to their end.

Each command is a child forked from a process that has imported everything. Python tells an audit
hook of each opening, renaming and making of a folder before it happens, and the hook kills the
child or refuses the operation. Writes by compiled code are met by killing at a random time and by
small file systems instead.

All that two runs leave is compared, byte for byte or number for number, but times (``seconds`` in
``metrics.jsonl``, the milliseconds of the leaderboard, ``finetuning_seconds``) and the page of the
leaderboard, which has random identifiers. Checkpoints are compared as numbers: Orbax draws their
files' names at random.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import counting
from small_corpus import write_small_corpus
from small_sst2 import tiny_bert, write_corpus

#: What the commands need; JAX makes its threads later, in the children.
IMPORTS = (
    "array_record.python.array_record_module", "bokeh.embed", "bokeh.plotting", "grain",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "orbax.checkpoint", "pandas",
    "pyarrow.parquet", "rich.progress", "safetensors.numpy", "scipy.stats", "tree", "typeguard",
    "tensorflow_datasets.core.reader", "tyro.extras", "jaxflow.commands.parser",
    "jaxflow.commands._runtime", "jaxflow.edges", "jaxflow.eval.leaderboard.page",
    "jaxflow.eval.leaderboard.report", "jaxflow.eval.paper.evaluate", "jaxflow.eval.paper.sst2",
    "jaxflow.eval.sharded.run", "jaxflow._flow.kernel", "jaxflow.train.finetuning",
    "jaxflow.train.loop", "faulting",
)  # fmt: skip
#: Kinds of failure -> the operations that fail. A full disk lets files be deleted.
WRITING = ("open", "os.rename", "os.mkdir")
FAILURES = {"ENOSPC": WRITING, **dict.fromkeys(("EROFS", "EACCES"),
                                               (*WRITING, "os.remove", "os.rmdir"))}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Work:
    """A command, run in a folder of its own.

    `out` is the folder that it fills and `run` a training run in there; ``{inputs}`` in `argv`
    stands for the folder with corpora, a finished run and a model. Without `argv` a corpus is
    prepared, as the first training run of a machine does.
    """

    name: str
    argv: tuple[str, ...]
    out: str
    run: str | None = None


TRAINING = (
    *("--data", "{inputs}/data", "--layers", "1", "--heads", "2", "--width", "16"),
    *("--epochs", "3", "--batch", "32", "--positions", "12", "--attractor-share", "0.25"),
    *("--checkpoint-every", "7"),
)
EVALUATION = ("evaluate", "{inputs}/run", "--out", "out", "--samples", "12")
BOARD = ("leaderboard", "{inputs}/run", "--out", "out", "--samples", "10")
FINETUNING = (
    *("reproduce", "sst2", "--data", "{inputs}/sst2", "--model", "{inputs}/bare", "--out", "out"),
    *("--epochs", "2", "--batch", "20", "--checkpoint-every", "7", "--threads", "1"),
    *("--samples", "6", "--paper-samples", "6", "--word-dropout", "0.05"),
)
TRAIN = Work("train", ("train", "--out", "run", *TRAINING), "run", run=".")
EVALUATE = Work("evaluate", EVALUATION, "out")
PREPARE = Work("prepare", (), "cache")
SHARDS = Work("shards", (*EVALUATION, "--shards", "4"), "out")
FINETUNE = Work("finetune", FINETUNING, "out", run="run")
LEADERBOARD = Work("leaderboard", BOARD, "out")
WORKS = (TRAIN, PREPARE, EVALUATE, SHARDS, FINETUNE, LEADERBOARD)


# The child.


def _child(folder: str, log: str, job: Mapping[str, Any]) -> None:
    """Do a job and end the process: ``argv``, ``cache``, and ``kind``, ``at`` or ``largest``."""
    status = 1
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{log}.{name}", flags), descriptor)
        # What a shell starts in the background ignores Ctrl-C, and its children with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = job["cache"]
        _shrink()
        count = _install(folder, job.get("kind"), job.get("at"))
        if "largest" in job:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], job["largest"]))
        status = _run(job["argv"]) if job["argv"] else _prepare()
        print(f"\noperations {count[0]}")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _run(argv: list[str]) -> int:
    from jaxflow.commands import main

    return main(argv)


def _prepare() -> int:
    from jaxflow.commands._runtime import ended_by_signals
    from jaxflow.errors import InputError
    from jaxflow.stopping import Stopped
    from jaxflow.train.corpus import load_corpus

    try:
        with ended_by_signals():
            load_corpus("synthetic", seed=1, size=1_500)
    except InputError as error:
        print(f"jaxflow: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"jaxflow: {stop}", file=sys.stderr)
        return 128 + stop.number
    return 0


def _shrink() -> None:
    """Make the leaderboard one of two methods and few permutations: its files are the same."""
    from jaxflow.edges import edge_weights
    from jaxflow.eval.leaderboard import scoring, summary

    few = {name: each for name, each in edge_weights(0).items() if name in ("raw", "norm")}
    scoring.edge_weights = lambda heads: few  # type: ignore[assignment]
    scoring.propagations = dict  # type: ignore[assignment]
    summary.summarise_boards.__kwdefaults__["permutations"] = 500


def _install(folder: str, kind: str | None, at: int | None) -> list[int]:
    """Count the operations that change a folder's files, and let a fault come from the n-th on.

    `kind` is ``kill``, a key of `FAILURES`, or None to count only. Operations on other places are
    not counted; those that name no place, relative to an open folder, are.
    """
    count = [0]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FAILURES["EROFS"] or not isinstance(
            arguments[0], str | bytes | os.PathLike
        ):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & writing):
            return
        name = os.fsdecode(arguments[0])
        if os.path.isabs(name) and not name.startswith(folder):
            return
        count[0] += 1
        if kind is None or at is None or count[0] < at:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event in FAILURES[kind]:
            number = getattr(errno, kind)
            raise OSError(number, os.strerror(number), name)

    sys.addaudithook(hook)
    return count


class Ended(NamedTuple):
    """How a child ended: its exit status (negative: the signal) and its two outputs."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard error other than progress."""
        return [line for line in self.err.splitlines() if line.startswith("jaxflow: ")]


# Where trials take place.


class Undisturbed(NamedTuple):
    """A work that nothing disturbed: what it leaves, its seconds and its file operations."""

    files: dict[str, str]
    seconds: float
    operations: int


class Outcome(NamedTuple):
    """Whether the fault came before the work had ended, and the faults found, in words."""

    struck: bool
    wrong: list[str]


class Stage:
    """A corpus, a model and a finished run in `inputs`, and scratch space."""

    def __init__(self, scratch: Path) -> None:
        from jaxflow.models import save_pretrained

        self.scratch, self.inputs, self._jobs = scratch, scratch / "inputs", itertools.count()
        self.inputs.mkdir(parents=True)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTS))
        # The same programs again and again: compiled once, and not by what is killed.
        settings = {
            "PYTHONPATH": os.pathsep.join(
                map(str, (Path(__file__).parents[2], Path(__file__).parent))
            ),
            "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "NO_COLOR": "1",
        }
        before = dict(os.environ)
        os.environ.update(settings)
        multiprocessing.forkserver.ensure_running()
        os.environ.clear()
        os.environ.update(before)
        write_small_corpus(self.inputs / "data")
        write_corpus(self.inputs / "sst2")
        save_pretrained(self.inputs / "bare", tiny_bert())
        ended = self.run(TRAIN, self.inputs)
        assert ended.status == 0, ended.err

    def start(self, work: Work, folder: Path, **fault: Any) -> Any:
        """Start a work in a folder and return its process."""
        argv = [part.format(inputs=self.inputs) for part in work.argv]
        cache = self.inputs / "cache" if argv else folder / work.out
        log = self.scratch / f"job-{next(self._jobs)}"
        job = {"argv": argv, "cache": str(cache), **fault}
        process = self._context.Process(
            target=_child, args=(str(folder), str(log), job), name=str(log)
        )
        process.start()
        return process

    def wait(self, process: Any) -> Ended:
        process.join()
        texts = []
        for name in ("out", "err"):
            path = Path(f"{process.name}.{name}")
            texts.append(path.read_text() if path.exists() else "")
            path.unlink(missing_ok=True)
        return Ended(process.exitcode, *texts)

    def run(self, work: Work, folder: Path, **fault: Any) -> Ended:
        return self.wait(self.start(work, folder, **fault))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a new folder for a work."""
        folder = self.scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def undisturbed(self, work: Work) -> Undisturbed:
        """Run a work twice, for its programs to be compiled, and return what both left."""
        looks = []
        for _ in range(2):
            with self.folder() as folder:
                begun = time.monotonic()
                ended = self.run(work, folder)
                seconds = time.monotonic() - begun
                assert ended.status == 0, ended.err
                looks.append(look(work, folder))
        other = dict(looks[0].items() ^ looks[1].items())
        assert not other, f"{work.name} is not the same in every run: {', '.join(other)}"
        return Undisturbed(looks[0], seconds, int(ended.out.split()[-1]))

    def half_written(self, work: Work, folder: Path, files: Mapping[str, str]) -> list[str]:
        """Return the files under final names that differ from those of an undisturbed work."""
        try:
            there = look(work, folder)
        except Exception as error:
            return [f"not whole: {error!r}"]
        return [f"{name} stands there and is another" for name, digest in there.items()
                if files.get(name, digest) != digest]  # fmt: skip

    def finish(self, work: Work, folder: Path, files: Mapping[str, str]) -> list[str]:
        """Run a work again to its end and return how it differs from an undisturbed one."""
        ended = self.run(work, folder)
        if ended.status != 0:
            return [f"the same command ends with {ended.status}: {ended.err[-2000:]}"]
        found = look(work, folder)
        wrong = [f"{name} differs in the end" for name in sorted(files.keys() | found.keys())
                 if found.get(name) != files.get(name)]  # fmt: skip
        return wrong + [f"{name} is left over" for name in leftovers(folder / work.out)]


# Trials: functions of a stage, a work, what it leaves undisturbed, and a number.


def kill(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Kill a work at a random time, or at a random one of its file operations; some twice."""
    rng = Random(f"kill {work.name} {number}")
    wrong: list[str] = []
    struck = False
    with stage.folder() as folder:
        for _ in range(1 + (rng.random() < 0.25)):
            if number % 2:
                ended = stage.run(work, folder, kind="kill", at=rng.randint(1, whole.operations))
            else:
                process = stage.start(work, folder)
                time.sleep(rng.uniform(0, whole.seconds))
                process.kill()
                ended = stage.wait(process)
            struck = struck or ended.status == -signal.SIGKILL
            if ended.status not in (0, -signal.SIGKILL):
                wrong.append(f"it ended with {ended.status}: {ended.err[-2000:]}")
            wrong += stage.half_written(work, folder, whole.files)
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(struck, wrong)


def stop(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Stop a work by SIGTERM or SIGINT at a random time."""
    rng = Random(f"stop {work.name} {number}")
    sent = rng.choice((signal.SIGTERM, signal.SIGINT))

    def go(folder: Path) -> tuple[bool, list[str]]:
        process = stage.start(work, folder)
        time.sleep(rng.uniform(0.05, 0.9) * whole.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sent)
        ended = stage.wait(process)
        # Before the command has begun to listen a signal ends the process itself.
        fine = ended.status in (0, -sent) or (ended.status == 128 + sent and len(ended.lines) == 1)
        return ended.status != 0, [] if fine else [f"{ended.status}: {ended.err[-2000:]}"]

    return _with_fault(stage, work, whole, go)


def two_at_once(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Start a work a second time on the folder that a first one has."""

    def go(folder: Path) -> tuple[bool, list[str]]:
        first, lock = stage.start(work, folder), folder / work.out / ".lock"
        while not (lock.exists() and lock.read_text()) and first.is_alive():
            time.sleep(0.01)
        held, second = first.is_alive(), stage.run(work, folder)
        said = f"jaxflow: error: the folder {work.out} is in use by process {first.pid} on "
        refused = second.status == 2 and second.lines[-1].startswith(said)
        wrong = []
        if held and not refused and first.is_alive():  # it may have ended in the meantime
            wrong.append(f"the second ended with {second.status}: {second.err[-2000:]}")
        if stage.wait(first).status != 0:
            wrong.append("the first did not end well")
        return refused, wrong

    return _with_fault(stage, work, whole, go)


def fail(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Let all file operations fail from a random one on."""
    kind = ("ENOSPC", "EROFS", "EACCES")[number % 3]
    at = Random(f"fail {work.name} {number}").randint(1, whole.operations)

    def go(folder: Path) -> tuple[bool, list[str]]:
        return _refusal(stage.run(work, folder, kind=kind, at=at))

    return _with_fault(stage, work, whole, go)


def limit(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Let no file grow beyond a random size, compiled code's included."""
    largest = int(2 ** Random(f"limit {work.name} {number}").uniform(11, 16))

    def go(folder: Path) -> tuple[bool, list[str]]:
        return _refusal(stage.run(work, folder, largest=largest))

    return _with_fault(stage, work, whole, go)


def small_disk(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome | None:
    """Work on a file system of a few pages, or a read-only one; None where none can be mounted."""
    size = 4096 * round(2 ** Random(f"disk {work.name} {number}").uniform(1, 8))

    def mount(folder: Path, options: str, *more: str) -> bool:
        command = ["mount", *more, "-o", options, *(("tmpfs",) if more else ()), str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    with stage.folder() as folder:
        if not mount(folder, f"size={size}", "-t", "tmpfs"):
            return None
        try:
            if number % 5 == 4:
                mount(folder, "remount,ro")
            struck, wrong = _refusal(stage.run(work, folder))
            mount(folder, "remount,rw,size=256m")
            wrong += stage.half_written(work, folder, whole.files)
            wrong += stage.finish(work, folder, whole.files)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    return Outcome(struck, wrong)


def _with_fault(stage: Stage, work: Work, whole: Undisturbed, go: Any) -> Outcome:
    """Run a work with a fault, check its files, and run it to its end."""
    with stage.folder() as folder:
        struck, wrong = go(folder)
        wrong += stage.half_written(work, folder, whole.files)
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(struck, wrong)


def _refusal(ended: Ended) -> tuple[bool, list[str]]:
    """Return whether a work was refused, and deviations from status 2 and one sentence."""
    lines = [line for line in ended.lines if line.startswith("jaxflow: error: ")]
    if ended.status and (ended.status != 2 or len(lines) != 1 or "Traceback" in ended.err):
        return True, [f"it ended with {ended.status}: {ended.err[-3000:]}"]
    return ended.status != 0, []


KINDS = {
    "kill": ("killed (SIGKILL) at a random moment", kill),
    "stop": ("stopped by SIGTERM or SIGINT", stop),
    "twice": ("started twice on one folder", two_at_once),
    "fail": ("disk full, read-only or permission lost from a random file operation on", fail),
    "limit": ("file size limited to a random size", limit),
    "disk": ("a file system of a few pages, or a read-only one", small_disk),
}


# What works leave.


def look(work: Work, folder: Path) -> dict[str, str]:
    """Return a digest of each file under its final name; raise if one is not whole."""
    out = folder / work.out
    run = None if work.run is None else out / work.run
    found = {} if run is None else _run_in(run)
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        own = run is not None and re.match(r"(run/)?(checkpoints|model|metrics.jsonl)\b", name)
        if path.is_file() and not own and not any(map(_temporary, name.split("/"))):
            found[name] = _digest(_without_times(path))
    if work is SHARDS:
        _check_shards(out)
    return found


def _temporary(name: str) -> bool:
    hidden = name.startswith(".") and name != ".config"  # which TFDS writes, beside its corpora
    return hidden or name.startswith("incomplete.") or "orbax-check" in name


def leftovers(out: Path) -> list[str]:
    """Return the files of a folder that have no final name."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if _temporary(path.name))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run_in(run: Path) -> dict[str, str]:
    """Return digests of a run's journal by line, checkpoints and model."""
    from jaxflow.models import load

    found = {}
    if (journal := run / "metrics.jsonl").exists():
        text = journal.read_text()
        assert not text or text.endswith("\n"), "a line of the journal is cut off"
        for number, line in enumerate(text.splitlines()):
            entry = {key: value for key, value in json.loads(line).items() if key != "seconds"}
            found[f"metrics.jsonl line {number}"] = _digest(json.dumps(entry).encode())
    for step in sorted((run / "checkpoints").glob("[0-9]*")):
        if step.name.isdigit():
            found[f"checkpoints/{step.name}"] = _checkpoint(step)
    if (run / "model").exists():
        load(run / "model")  # which compares all checksums
        files = sorted(path for path in (run / "model").rglob("*") if path.is_file())
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
        found["model"] = _digest(content)
    return found


def _checkpoint(step: Path) -> str:
    """Return a digest of a checkpoint's numbers; raise if it is sealed and not whole."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from jaxflow.train.checkpoint import SEAL, _checksum

    if (step / SEAL).exists():
        assert (step / SEAL).read_text() == _checksum(step), f"{step} is not whole"
    digest = hashlib.sha256()
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore((step / "default").absolute())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _check_shards(out: Path) -> None:
    """Check that no sentence is in two shards, and that the tables' are those of all shards."""
    import numpy as np
    import pyarrow.parquet as pq

    shards = sorted((out / "shards").glob("shard-*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard)["row"].to_pylist()]
    assert len(rows) == len(set(rows)), f"a sentence is in two shards of {out}"
    if (out / "scores.npz").exists():
        with np.load(out / "scores.npz") as scores:
            assert scores["rows"].tolist() == rows, f"the tables of {out} are not of its shards"


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name in ("tables.json", "tables.md", "config.json"):
        return re.sub(rb'("?finetuning_seconds"?: )[\d.e-]+', rb"\1", content)
    if path.name == "leaderboard.json":
        return re.sub(rb'"milliseconds[a-z_]*": ("[^"]*"|[^,}]+)', b"", content)
    if path.name == "leaderboard.md":  # the last column
        return re.sub(rb"\| [\d,.]+ \|$", b"| |", content, flags=re.MULTILINE)
    if path.name == "leaderboard.html":
        assert content.rstrip().endswith(b"</html>"), f"{path} is cut off"
        return b""
    return content


# Damaged checkpoints.


def damaged_checkpoints(run: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Damage the last checkpoint of a run repeatedly, and open its checkpoints each time.

    Every file is cut off at every 4 KiB, then random bits are flipped.
    """
    from jaxflow.train.checkpoint import Checkpoints, _checksum

    before, last = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))[-2:]
    good, numbers = _checksum(before), _checkpoint(before)
    found: dict[str, Any] = {"tried": 0, "cut": 0, "flip": 0, "wrong": []}
    for path, kind, place in _damages(last, count):
        folder, said, printed = scratch / "checkpoints", [], io.StringIO()
        shutil.rmtree(scratch, ignore_errors=True)
        for step in (before, last):
            shutil.copytree(step, folder / step.name)
        damage(folder / last.name / path.relative_to(last), kind, place)
        found[kind] += 1
        try:
            with contextlib.redirect_stderr(printed):
                checkpoints = Checkpoints(folder, said.append)
                step = checkpoints._manager.latest_step()
                checkpoints.close()
            assert str(step) == before.name
            assert _checksum(folder / before.name) == good
            assert found["tried"] % 25 or _checkpoint(folder / before.name) == numbers
            assert len(said) == 1, said
            assert str(folder / last.name) in said[0]
            assert not printed.getvalue()
            assert not (folder / last.name).exists()
            assert (scratch / "checkpoints-damaged" / last.name).is_dir()
        except Exception as error:
            found["wrong"].append(f"{path.name}, {kind} at {place}: {error!r}")
        found["tried"] += 1
    shutil.rmtree(scratch, ignore_errors=True)
    return found


def _damages(folder: Path, count: int) -> Iterator[tuple[Path, str, int]]:
    """Yield ``(file, kind, place)`` for a checkpoint: all cuts first, then flipped bits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    cuts = [(path, place) for path in files for place in range(0, path.stat().st_size, 4096)]
    for path, place in cuts:
        yield path, "cut", place
    rng, flipped = Random("damages"), [path for path in files if path.stat().st_size]
    for number in range(max(count - len(cuts), 0)):
        path = flipped[number % len(flipped)]
        yield path, "flip", rng.randrange(8 * path.stat().st_size)


def damage(path: Path, kind: str, place: int) -> None:
    """Cut a file off after `place` bytes, or flip bit `place`."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[place:]
    else:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


# Many trials.

#: The works of the trials, again and again.
TURNS = (
    *(TRAIN, PREPARE, EVALUATE, SHARDS, TRAIN, FINETUNE, PREPARE, SHARDS),
    *(TRAIN, LEADERBOARD, EVALUATE, FINETUNE, PREPARE, SHARDS, TRAIN, FINETUNE),
)
#: Shares of the kinds in all trials.
SHARES = {"kill": 12, "stop": 2, "twice": 1, "fail": 4, "limit": 2, "disk": 2}


def work_of(kind: str, number: int) -> Work:
    """Return the work of a kind's trial of a number; two may prepare a corpus at once."""
    turns = [work for work in TURNS if kind != "twice" or work is not PREPARE]
    return turns[number % len(turns)]


def run(trials: int, out: Path) -> dict[str, Any]:
    """Make trials of all kinds in turn and write their counts after each; go on where cut off.

    Returns ``faults``, by kind and work how many were ``tried``, ``struck`` and ``survived``, what
    was ``wrong``, and the counts of `damaged_checkpoints`.
    """
    found = {"faults": {}, "wrong": [], "damages": None, **counting.resumed(out, trials=trials)}
    order = sorted(
        ((number + 0.5) / share, kind, number)
        for kind, share in SHARES.items()
        for number in range(round(trials * share / sum(SHARES.values())))
    )
    with tempfile.TemporaryDirectory() as name:
        stage, whole = Stage(Path(name)), {}
        if found["damages"] is None:
            found["damages"] = damaged_checkpoints(
                stage.inputs / "run", stage.scratch / "damaged", int(2.5 * trials)
            )
        for _, kind, number in order:
            work = work_of(kind, number)
            tally = (
                found["faults"]
                .setdefault(kind, {})
                .setdefault(work.name, {"tried": 0, "struck": 0, "survived": 0, "last": -1})
            )
            if number <= tally["last"]:
                continue
            if work not in whole:
                whole[work] = stage.undisturbed(work)
            outcome = KINDS[kind][1](stage, work, whole[work], number)
            tally["last"] = number
            if outcome is not None:
                tally["tried"] += 1
                tally["struck"] += outcome.struck
                tally["survived"] += not outcome.wrong
                if outcome.wrong:
                    found["wrong"].append(f"{kind} {work.name} {number}: {outcome.wrong}")
                    print(found["wrong"][-1])
            counting.write(out, found)
    return found
