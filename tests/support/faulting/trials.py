"""Run trials: a work with a fault, a check of its files, and the same work to its end."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from small_corpus import write_small_corpus

from faulting.server import Ended, Server
from faulting.works import TRAINING, Work, leftovers


class Undisturbed(NamedTuple):
    """A work that nothing disturbed: what it leaves, its seconds and its file operations."""

    files: dict[str, str]
    seconds: float
    operations: int


class Outcome(NamedTuple):
    """Whether the fault came before the work had ended, and the faults found, in words."""

    struck: bool
    wrong: list[str]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where trials take place: the server, a corpus with a finished run, and scratch space."""

    server: Server
    inputs: Path
    scratch: Path

    @classmethod
    def build(cls, scratch: Path) -> Stage:
        """Write a corpus, and train the run that evaluations read."""
        inputs = scratch / "inputs"
        inputs.mkdir(parents=True)
        write_small_corpus(inputs / "data")
        stage = cls(Server(scratch), inputs, scratch)
        argv = ["train", "--out", "run", *(part.format(inputs=inputs) for part in TRAINING)]
        ended = stage.server.run(inputs, {"argv": argv, "cache": str(inputs / "cache")})
        assert ended.status == 0, ended.err
        return stage

    def call(self, folder: Path, name: str, *arguments: Any) -> Any:
        """Run a function of `works` in a child."""
        return self.server.call(folder, name, *arguments, cache=self.inputs / "cache")

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a new folder for a work."""
        folder = self.scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def look(self, work: Work, folder: Path) -> dict[str, str]:
        """Return `works.look` of a work's folder."""
        return dict(self.call(folder, "look", work.name, str(folder / work.out)))

    def undisturbed(self, work: Work) -> Undisturbed:
        """Run a work twice, for its programs to be compiled, and return what both left."""
        if work.needs is not None:
            self.call(self.scratch, work.needs, str(self.inputs))
        looks = []
        for _ in range(2):
            with self.folder() as folder:
                begun = time.monotonic()
                ended = self.server.run(folder, work.job(self.inputs, folder))
                seconds = time.monotonic() - begun
                assert ended.status == 0, ended.err
                looks.append(self.look(work, folder))
        other = dict(looks[0].items() ^ looks[1].items())
        assert not other, f"{work.name} is not the same in every run: {', '.join(other)}"
        return Undisturbed(looks[0], seconds, int(ended.out.split()[-1]))

    def half_written(self, work: Work, folder: Path, files: dict[str, str]) -> list[str]:
        """Return the files under final names that differ from those of an undisturbed work."""
        try:
            there = self.look(work, folder)
        except RuntimeError as error:
            return [f"not whole: {error}"]
        return [f"{name} stands there and is another" for name, digest in there.items()
                if files.get(name, digest) != digest]  # fmt: skip

    def finish(self, work: Work, folder: Path, files: dict[str, str]) -> list[str]:
        """Run a work again to its end and return how it differs from an undisturbed one."""
        ended = self.server.run(folder, work.job(self.inputs, folder))
        if ended.status != 0:
            return [f"the same command ends with {ended.status}: {ended.err[-2000:]}"]
        found = self.look(work, folder)
        wrong = [f"{name} differs in the end" for name in sorted(files.keys() | found.keys())
                 if found.get(name) != files.get(name)]  # fmt: skip
        return wrong + [f"{name} is left over" for name in leftovers(str(folder / work.out))]

    def after(self, work: Work, folder: Path, whole: Undisturbed) -> list[str]:
        """Check the files after a fault, then run the work to its end."""
        wrong = self.half_written(work, folder, whole.files)
        return wrong + self.finish(work, folder, whole.files)


def kill(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Kill a work at a random time, or at a random one of its file operations; some twice."""
    rng = Random(f"kill {work.name} {number}")
    wrong: list[str] = []
    struck = False
    with stage.folder() as folder:
        job = work.job(stage.inputs, folder)
        for _ in range(1 + (rng.random() < 0.25)):
            if number % 2:
                fault = {"kind": "kill", "at": rng.randint(1, whole.operations)}
                ended = stage.server.run(folder, job | fault)
            else:
                process = stage.server.start(folder, job)
                time.sleep(rng.uniform(0, whole.seconds))
                os.kill(process, signal.SIGKILL)
                ended = stage.server.wait(process)
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
    with stage.folder() as folder:
        process = stage.server.start(folder, work.job(stage.inputs, folder))
        time.sleep(rng.uniform(0.05, 0.9) * whole.seconds)
        os.kill(process, sent)
        ended = stage.server.wait(process)
        wrong = []
        # Before the command has begun to listen a signal ends the process itself.
        fine = ended.status in (0, -sent) or (
            ended.status == 128 + sent and len(ended.lines) == 1
        )  # fmt: skip
        if not fine:
            wrong.append(f"it ended with {ended.status}: {ended.err[-2000:]}")
        wrong += stage.after(work, folder, whole)
    return Outcome(ended.status != 0, wrong)


def two_at_once(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Start a work a second time on the folder that a first one has."""

    def runs(process: int) -> bool:
        try:
            text = Path(f"/proc/{process}/stat").read_text()
        except FileNotFoundError:
            return False
        return text.rsplit(")", 1)[1].split()[0] != "Z"

    wrong = []
    with stage.folder() as folder:
        job = work.job(stage.inputs, folder)
        first = stage.server.start(folder, job)
        lock = folder / work.out / ".lock"
        while not (lock.exists() and lock.read_text()) and runs(first):
            time.sleep(0.01)
        held = runs(first)
        second = stage.server.run(folder, job)
        said = f"jaxflow: error: the folder {work.out} is in use by process {first} on "
        refused = second.status == 2 and second.lines[-1].startswith(said)
        if held and not refused and runs(first):  # it may have ended in the meantime
            wrong.append(f"the second ended with {second.status}: {second.err[-2000:]}")
        if stage.server.wait(first).status != 0:
            wrong.append("the first did not end well")
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(refused, wrong)


def _refusal(ended: Ended) -> list[str]:
    """Return the deviations of a refusal from status 2, one sentence on one line, no traceback."""
    lines = [line for line in ended.lines if line.startswith("jaxflow: error: ")]
    if ended.status and (ended.status != 2 or len(lines) != 1 or "Traceback" in ended.err):
        return [f"it ended with {ended.status}: {ended.err[-3000:]}"]
    return []


def fail(
    stage: Stage, work: Work, whole: Undisturbed, number: int, fault: dict[str, Any] | None = None
) -> Outcome:
    """Let all file operations fail from a random one on."""
    if fault is None:
        rng = Random(f"fail {work.name} {number}")
        kind = ("ENOSPC", "EROFS", "EACCES")[number % 3]
        fault = {"kind": kind, "at": rng.randint(1, whole.operations)}
    with stage.folder() as folder:
        ended = stage.server.run(folder, work.job(stage.inputs, folder) | fault)
        wrong = _refusal(ended) + stage.after(work, folder, whole)
    return Outcome(ended.status != 0, [f"{fault}: {line}" for line in wrong])


def limit(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Let no file grow beyond a random size, compiled code's included."""
    rng = Random(f"limit {work.name} {number}")
    return fail(stage, work, whole, number, {"largest": int(2 ** rng.uniform(11, 16))})


def small_disk(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome | None:
    """Work on a file system of a few pages, or a read-only one; None where none can be mounted."""
    read_only = number % 5 == 4
    size = 4096 * round(2 ** Random(f"disk {work.name} {number}").uniform(1, 8))
    with stage.folder() as folder:

        def mount(options: str, *more: str) -> bool:
            command = ["mount", *more, "-o", options, *(("tmpfs",) if more else ()), str(folder)]
            return subprocess.run(command, capture_output=True).returncode == 0

        if not mount(f"size={size}", "-t", "tmpfs"):
            return None
        try:
            if read_only:
                mount("remount,ro")
            ended = stage.server.run(folder, work.job(stage.inputs, folder))
            mount("remount,rw,size=256m")
            wrong = _refusal(ended) + stage.after(work, folder, whole)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    what = "a read-only folder" if read_only else f"a disk of {size} bytes"
    return Outcome(ended.status != 0, [f"{what}: {line}" for line in wrong])


KINDS = {
    "kill": ("killed (SIGKILL) at a random moment", kill),
    "stop": ("stopped by SIGTERM or SIGINT", stop),
    "twice": ("started twice on one folder", two_at_once),
    "fail": ("disk full, read-only or permission lost from a random file operation on", fail),
    "limit": ("file size limited to a random size", limit),
    "disk": ("a file system of a few pages, or a read-only one", small_disk),
}
WORK_NAMES = ("train", "prepare", "evaluate", "shards", "finetune", "leaderboard")
