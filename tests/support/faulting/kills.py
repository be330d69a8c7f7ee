"""Works that are killed, or told to stop, at random moments, and run again."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from faulting.server import Ended
from faulting.trials import Outcome, Stage, Undisturbed
from faulting.works import Work

__all__ = ["kill", "stop", "two_at_once"]


def kill(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Kill a work at a random time, or at a random one of its file operations; some twice."""
    rng = Random(f"kill {work.name} {number}")
    wrong: list[str] = []
    struck = False
    with stage.folder() as folder:
        for _ in range(1 + (rng.random() < 0.25)):
            ended = _killed(stage, work, whole, folder, rng, by_time=number % 2 == 0)
            struck = struck or ended.status == -signal.SIGKILL
            if ended.status not in (0, -signal.SIGKILL):
                wrong.append(f"it ended with {ended.status}: {ended.err[-2000:]}")
            wrong += stage.half_written(work, folder, whole.files)
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(struck, wrong)


def _killed(
    stage: Stage, work: Work, whole: Undisturbed, folder: object, rng: Random, *, by_time: bool
) -> Ended:
    job = work.job(stage.inputs, folder)  # type: ignore[arg-type]
    if not by_time:
        fault = {"kind": "kill", "at": rng.randint(1, whole.operations)}
        return stage.server.run(folder, job | fault)  # type: ignore[arg-type]
    process = stage.server.start(folder, job)  # type: ignore[arg-type]
    time.sleep(rng.uniform(0, whole.seconds))
    os.kill(process, signal.SIGKILL)
    return stage.server.wait(process)


def stop(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Tell a work to stop by SIGTERM or SIGINT at a random time."""
    rng = Random(f"stop {work.name} {number}")
    sent = rng.choice((signal.SIGTERM, signal.SIGINT))
    with stage.folder() as folder:
        process = stage.server.start(folder, work.job(stage.inputs, folder))
        time.sleep(rng.uniform(0.05, 0.9) * whole.seconds)
        os.kill(process, sent)
        ended = stage.server.wait(process)
        wrong = []
        struck = ended.status != 0
        # Before the command has begun to listen a signal ends the process itself.
        if ended.status not in (0, 128 + sent, -sent):
            wrong.append(f"it ended with {ended.status}: {ended.err[-2000:]}")
        if ended.status == 128 + sent and len(ended.lines) != 1:
            wrong.append(f"it said {ended.err[-2000:]}")
        wrong += stage.half_written(work, folder, whole.files)
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(struck, wrong)


def two_at_once(stage: Stage, work: Work, whole: Undisturbed, number: int) -> Outcome:
    """Start a work a second time on the folder that a first one has."""
    wrong = []
    with stage.folder() as folder:
        job = work.job(stage.inputs, folder)
        first = stage.server.start(folder, job)
        lock = folder / work.out / ".lock"
        while not (lock.exists() and lock.read_text()) and _runs(first):
            time.sleep(0.01)
        held = _runs(first)
        second = stage.server.run(folder, job)
        said = f"jaxflow: error: the folder {work.out} is in use by process {first} on "
        refused = second.status == 2 and second.lines[-1].startswith(said)
        # The first may have ended in the meantime.
        if held and not refused and _runs(first):
            wrong.append(f"the second ended with {second.status}: {second.err[-2000:]}")
        if stage.server.wait(first).status != 0:
            wrong.append("the first did not end well")
        wrong += stage.finish(work, folder, whole.files)
    return Outcome(refused, wrong)


def _runs(process: int) -> bool:
    """Whether a child has not ended; the server has not asked for its status yet."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
