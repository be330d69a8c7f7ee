"""Fork a child with everything imported for each job, and inject a fault into it.

Python tells an audit hook of each opening, renaming and making of a folder before it happens, and
the hook kills the child or refuses the operation. Writes by compiled code are met by killing at a
random time and by small file systems instead.
"""

from __future__ import annotations

import contextlib
import errno
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
from typing import Any, NamedTuple

SUPPORT = Path(__file__).parents[1]
#: What the jobs need; JAX makes its threads later, in the children.
IMPORTS = (
    "array_record.python.array_record_module", "bokeh.embed", "bokeh.plotting", "grain",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "orbax.checkpoint", "pandas",
    "pyarrow.parquet", "rich.progress", "safetensors.numpy", "scipy.stats", "tree", "typeguard",
    "tensorflow_datasets.core.reader", "tyro.extras", "jaxflow.commands.parser",
    "jaxflow.commands._runtime", "jaxflow.edges", "jaxflow.eval.leaderboard.page",
    "jaxflow.eval.leaderboard.report", "jaxflow.eval.paper.evaluate", "jaxflow.eval.paper.sst2",
    "jaxflow.eval.sharded.run", "jaxflow._flow.kernel", "jaxflow.train.builder",
    "jaxflow.train.finetuning", "jaxflow.train.loop",
)  # fmt: skip
#: Kinds of failure -> the operations that fail. A full disk lets files be deleted.
WRITING = ("open", "os.rename", "os.mkdir")
FAILURES = {"ENOSPC": WRITING, **dict.fromkeys(("EROFS", "EACCES"),
                                               (*WRITING, "os.remove", "os.rmdir"))}  # fmt: skip
BOARD = ("raw", "norm")  # edge weights on the leaderboard


class Ended(NamedTuple):
    """How a child ended: its exit status (negative: the signal) and its two outputs."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return the lines of standard error other than progress."""
        return [line for line in self.err.splitlines() if line.startswith("jaxflow: ")]


class Server:
    """Starts jobs at once; `scratch` is for their outputs and the programs they compile."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._jobs = scratch, 0
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)]),
            "JAX_PLATFORMS": "cpu",
            # The same programs again and again: compiled once, and not by what is killed.
            "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "faulting.server"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def start(self, folder: Path, job: Mapping[str, Any]) -> int:
        """Start a job in a folder and return its process.

        `job` has ``argv`` of a command, or ``call``, the name of a function in `works`, and its
        ``arguments``; ``cache``, the user's cache folder; and for a fault ``kind`` and ``at``, or
        ``largest``, the size in bytes that no file can exceed.
        """
        self._jobs += 1
        log = self._scratch / f"job-{self._jobs}"
        return int(self._ask({"folder": str(folder), "log": str(log), **job})["process"])

    def wait(self, process: int) -> Ended:
        """Wait for a process."""
        answer = self._ask({"wait": process})
        texts = []
        for name in ("out", "err"):
            path = Path(f"{answer['log']}.{name}")
            texts.append(path.read_text())
            path.unlink()
        return Ended(answer["status"], *texts)

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
        self._process.communicate()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server has ended with {self._process.wait()}")
        return json.loads(answer)


def _serve() -> None:
    # What a shell starts in the background ignores Ctrl-C, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in IMPORTS:
        importlib.import_module(name)
    _shrink()
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
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{request['log']}.{name}", flags), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
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
    from faulting import works
    from jaxflow.commands import main

    if "call" in request:
        print(json.dumps(getattr(works, request["call"])(*request["arguments"])))
        return 0
    count = _install(request["folder"], request.get("kind"), request.get("at"))
    if "largest" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
    status = works.prepare() if request.get("prepare") else main(request["argv"])
    print(f"\noperations {count[0]}")
    return status


def _install(folder: str, kind: str | None, at: int | None) -> list[int]:
    """Count the operations that change a folder's files, and let a fault come from the n-th on.

    `kind` is ``kill``, a key of `FAILURES`, or None to count only. Operations on other places are
    not counted; those that name no place, relative to an open folder, are.
    """
    count = [0]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FAILURES["EROFS"]:
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & writing):
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
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


if __name__ == "__main__":
    _serve()
