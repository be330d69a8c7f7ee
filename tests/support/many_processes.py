"""Run ``jaxflow train`` in several processes on this host."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from many_devices import environment

# Ten steps an epoch, and a line of the journal with each checkpoint.
SIZES = {
    "layers": 1,
    "heads": 2,
    "width": 32,
    "batch": 32,
    "epochs": 3,
    "positions": 12,
    "attractor-share": 0.25,
    "checkpoint-every": 3,
}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How processes ended: their statuses, and what each wrote."""

    codes: list[int]
    out: list[str]
    err: list[str]

    def last_lines(self) -> list[str]:
        """Return the last line of each one's standard error."""
        return [(text.splitlines() or [""])[-1] for text in self.err]


def start(
    count: int,
    run: Path,
    data: Path,
    *options: object,
    devices: int = 1,
    each: Callable[[int], Sequence[object]] = lambda process: (),
) -> list[subprocess.Popen[str]]:
    """Start processes that train one model, each with options of its own if `each` gives some."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "jaxflow", "train", "--out", run, "--data", data, *sizes]
    started = []
    for process in range(count):
        others = ["--coordinator", coordinator, "--processes", count, "--process", process]
        words = [*command, *(others if count > 1 else ()), *options, *each(process)]
        started.append(
            subprocess.Popen(
                [str(word) for word in words],
                env=environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def end(started: list[subprocess.Popen[str]]) -> Ended:
    """Wait for processes; none may wait for ever for one that has ended."""
    try:
        said = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    out, err = (list(texts) for texts in zip(*said, strict=True))
    return Ended([process.returncode for process in started], out, err)


def wait_for(path: Path, started: list[subprocess.Popen[str]]) -> None:
    """Wait until a file is there."""
    while not path.exists():
        assert all(process.poll() is None for process in started), end(started)
        time.sleep(0.01)
