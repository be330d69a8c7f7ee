"""Works on disks that fill up, folders that are read-only, and permissions lost on the way."""

from __future__ import annotations

import subprocess
from random import Random

from faulting.server import Ended
from faulting.trials import Outcome, Stage, Undisturbed
from faulting.works import Work

__all__ = ["fail", "limit", "small_disk"]


def _refusal(ended: Ended) -> list[str]:
    """Say in what a refused command was not: status 2, one sentence on one line, no traceback."""
    lines = [line for line in ended.lines if line.startswith("jaxflow: error: ")]
    if ended.status != 2 or len(lines) != 1 or "Traceback" in ended.err:
        return [f"it ended with {ended.status}: {ended.err[-3000:]}"]
    return []


def fail(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Let all file operations fail from a random one on."""
    rng = Random(f"fail {work.name} {number}")
    kind = ("ENOSPC", "EROFS", "EACCES")[number % 3]
    fault = {"kind": kind, "at": rng.randint(1, whole.operations)}
    return _refused_then_whole(stage, work, whole, fault)


def limit(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Let no file grow beyond a random size, compiled code's included."""
    rng = Random(f"limit {work.name} {number}")
    return _refused_then_whole(stage, work, whole, {"largest": int(2 ** rng.uniform(11, 16))})


def _refused_then_whole(
    stage: Stage, work: Work, whole: Undisturbed, fault: dict[str, object]
) -> Outcome:
    with stage.folder() as folder:
        ended = stage.server.run(folder, work.job(stage.inputs, folder) | fault)
        wrong = _refusal(ended) if ended.status != 0 else []
        wrong += stage.half_written(work, folder, whole.files)
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(ended.status != 0, [f"{fault}: {line}" for line in wrong])


def small_disk(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome | None:
    """Work on a file system of a few pages, or a read-only one; None where none can be mounted."""
    rng = Random(f"disk {work.name} {number}")
    read_only = number % 5 == 4
    size = 4096 * round(2 ** rng.uniform(1, 8))
    with stage.folder() as folder:
        options = f"size={size}"
        mounted = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(mounted, capture_output=True).returncode:
            return None
        try:
            if read_only:
                _remount(folder, "ro")
            ended = stage.server.run(folder, work.job(stage.inputs, folder))
            wrong = _refusal(ended) if ended.status != 0 else []
            if read_only:
                _remount(folder, "rw")
            _remount(folder, "size=256m")
            wrong += stage.half_written(work, folder, whole.files)
            wrong += stage.finish(work, folder, whole.files)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    what = "a read-only folder" if read_only else f"a disk of {size} bytes"
    return Outcome(ended.status != 0, [f"{what}: {line}" for line in wrong])


def _remount(folder: object, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
