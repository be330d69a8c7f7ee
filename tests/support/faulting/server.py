"""A process that has imported everything and forks a child for each job; see `Server`."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["Ended", "Server"]

SUPPORT = Path(__file__).parents[1]
ROOT = SUPPORT.parents[1]
BOARD = ("raw", "norm")  # edge weights on the leaderboard


class Ended:
    """How a child ended: its exit status (negative: the signal) and its two outputs."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def lines(self) -> list[str]:
        """Return what standard error tells besides progress."""
        return [line for line in self.err.splitlines() if line.startswith("jaxflow: ")]


class Server:
    """Starts jobs at once, because all they need is imported already.

    Parameters
    ----------
    scratch
        Folder for the children's outputs and the cache of compiled programs.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._jobs = 0
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
            "JAX_PLATFORMS": "cpu",
            # The same programs again and again: compiled once, and not by what is killed.
            "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "NO_COLOR": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faulting.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, folder: Path, job: Mapping[str, Any]) -> int:
        """Start a job in a folder and return its process.

        `job` has either ``argv`` of a command or ``call``, the name of a function in `works` that
        is given ``arguments``; ``cache``, the user's cache folder; and, for a fault, ``kind``,
        ``at`` and ``largest``, the size in bytes that no file can exceed.
        """
        self._jobs += 1
        log = self._scratch / f"job-{self._jobs}"
        return int(self._ask({"folder": str(folder), "log": str(log), **job})["process"])

    def wait(self, process: int) -> Ended:
        """Wait for a process."""
        answer = self._ask({"wait": process})
        out, err = (Path(f"{answer['log']}.{name}") for name in ("out", "err"))
        ended = Ended(answer["status"], out.read_text(), err.read_text())
        out.unlink()
        err.unlink()
        return ended

    def run(self, folder: Path, job: Mapping[str, Any]) -> Ended:
        """Start a job and wait for it."""
        return self.wait(self.start(folder, job))

    def call(self, folder: Path, name: str, *arguments: Any, cache: Path) -> Any:
        """Run a function of `works` in a child and return what it returns."""
        job = {"call": name, "arguments": arguments, "cache": str(cache)}
        ended = self.run(folder, job)
        if ended.status:
            raise RuntimeError(f"{name} failed:\n{ended.out}\n{ended.err}")
        return json.loads(ended.out.splitlines()[-1])

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            raise RuntimeError(f"the process that starts the jobs has ended with {status}")
        return json.loads(answer)


def _serve() -> None:
    # What a shell starts in the background ignores Ctrl-C, and its children with it: a job is to do
    # what a command in the foreground does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _import_all()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    logs: dict[int, str] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            process, status = os.waitpid(request["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status), "log": logs.pop(process)}
        else:
            process = os.fork()
            if process == 0:
                answers.close()
                _work(request)
            logs[process] = request["log"]
            answer = {"process": process}
        print(json.dumps(answer), file=answers, flush=True)


def _import_all() -> None:
    """Import what the jobs do; JAX makes its threads later, in the children."""
    for name in (
        "array_record.python.array_record_module",
        "bokeh.embed",
        "bokeh.plotting",
        "grain",
        "matplotlib.backends.backend_svg",
        "matplotlib.figure",
        "orbax.checkpoint",
        "pandas",
        "pyarrow.parquet",
        "rich.progress",
        "safetensors.numpy",
        "scipy.stats",
        "tensorflow_datasets.core.reader",
        "tree",
        "typeguard",
        "tyro.extras",
        "jaxflow.commands.parser",
        "jaxflow.commands._runtime",
        "jaxflow.edges._attention",
        "jaxflow.eval.paper.evaluate",
        "jaxflow.eval.plots.leaderboard",
        "jaxflow.eval.leaderboard.report",
        "jaxflow.eval.leaderboard.page",
        "jaxflow.eval.sharded.run",
        "jaxflow.eval.paper.sst2",
        "jaxflow._flow.kernel",
        "jaxflow._flow.layout",
        "jaxflow._flow.sweep",
        "jaxflow.train.builder",
        "jaxflow.train.finetuning",
        "jaxflow.train.loop",
    ):
        importlib.import_module(name)
    _shrink()


def _shrink() -> None:
    """Make the leaderboard one of a few methods and few permutations: its files are the same."""
    from jaxflow.edges import edge_weights
    from jaxflow.eval.leaderboard import scoring, summary

    few = {name: each for name, each in edge_weights(0).items() if name in BOARD}
    scoring.edge_weights = lambda heads: few  # type: ignore[assignment]
    scoring.propagations = dict  # type: ignore[assignment]
    summary.summarise_boards.__kwdefaults__["permutations"] = 500


def _work(request: Mapping[str, Any]) -> None:
    """Do a job and end the process."""
    status = 1
    outputs: list[IO[str]] = []
    try:
        for descriptor, name in ((1, "out"), (2, "err")):
            file = open(f"{request['log']}.{name}", "w")  # noqa: SIM115
            os.dup2(file.fileno(), descriptor)
            outputs.append(file)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.chdir(request["folder"])
        os.environ["XDG_CACHE_HOME"] = request["cache"]
        status = _job(request)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _job(request: Mapping[str, Any]) -> int:
    from faulting import faults, works

    if "call" in request:
        found = getattr(works, request["call"])(*request["arguments"])
        print(json.dumps(found))
        return 0
    count = faults.install(request["folder"], request.get("kind"), request.get("at"))
    if "largest" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
    if request.get("prepare"):
        status = works.prepare()
    else:
        from jaxflow.commands import main

        status = main(request["argv"])
    print(f"\noperations {count[0]}")
    return status


if __name__ == "__main__":
    _serve()
