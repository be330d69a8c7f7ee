"""Set up what every command needs: signals, exit statuses, compiler cache, memory, processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from jaxflow.errors import InputError
from jaxflow.stopping import Stopped

if TYPE_CHECKING:
    from jaxflow.models import Model
    from jaxflow.train.distributed import Processes

AGAIN = "no file is half-written, and the same command goes on from what is kept"

# Package that is imported -> the extra that installs it.
EXTRAS = {
    **dict.fromkeys(("flax", "safetensors", "tokenizers", "huggingface_hub"), "models"),
    **dict.fromkeys(("filelock", "PIL"), "models"),
    **dict.fromkeys(("optax", "tensorflow_datasets", "array_record", "grain"), "train"),
    **dict.fromkeys(("orbax", "pyarrow", "importlib_resources"), "train"),
    **dict.fromkeys(("matplotlib", "bokeh"), "plots"),
    "sklearn": "vision",
    "torch": "test",
}

# Commands of which nothing works without the extra `train`, which includes `models`.
TRAINING = ("reproduce", "train", "evaluate", "leaderboard", "export")


def exit_status(error: BaseException, command: str = "") -> int | None:
    """Print the error that ended a command in one line, and return its exit status.

    It is 2 for unusable input and for a package that is not installed, whose extra depends on the
    command, and 128 and the signal's number after SIGINT and SIGTERM; None for an unexpected error,
    of which nothing is printed.
    """
    if isinstance(error, InputError):
        message, status = f"error: {' '.join(str(error).split())}", 2
    elif isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error, command)):
        message, status = f"error: {missing}", 2
    elif isinstance(error, Stopped):
        again = "the same command goes on from there" if error.kept else AGAIN
        message, status = f"{error}; {again}", 128 + error.number
    elif isinstance(error, KeyboardInterrupt):
        message, status = f"interrupted; {AGAIN}", 130
    else:
        return None
    print(f"jaxflow: {message}", file=sys.stderr)
    return status


def missing_extra(error: ModuleNotFoundError, command: str) -> str | None:
    """Return a sentence that names the extra of a missing package; None if it is of no extra."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return None
    extra = EXTRAS[package]
    if extra == "models" and command in TRAINING:
        extra = "train"
    return (
        f"{command or 'this command'} needs the package {package}, which is not installed: "
        f"pip install 'jaxflow[{extra}]'"
    )


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end a block by an exception, so that it leaves nothing half-written.

    A long call into compiled code delays Python's signal handlers. A thread therefore counts the
    signals as they arrive, and at the second one ends the process at once. A signal may arrive in
    an import, which turns the exception into one of its own: any error that a block raises after a
    signal counts as its end by that signal.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise Stopped(number)

    ours = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    ]
    if threading.current_thread() is not threading.main_thread() or not ours:
        yield
        return
    before = {number: signal.signal(number, stop) for number in ours}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_exit_at_second, args=(reader, set(ours)), daemon=True).start()
    try:
        yield
    except Exception as error:
        if received:
            raise Stopped(received[0]) from error
        raise
    finally:
        signal.set_wakeup_fd(old_writer)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_at_second(reader: int, numbers: set[int]) -> None:
    seen = 0
    with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as arrivals:
        while arrived := arrivals.read(1):
            seen += arrived[0] in numbers
            if seen == 2:
                os._exit(128 + arrived[0])


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Keep what JAX compiles in this block on disk, in ``jaxflow/compiled`` of the user's cache.

    JAX keys each program by its code, its compiler and the machine. Where a folder is configured
    already, that one is used; where the folder cannot be written, nothing is kept.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache as cache

    from jaxflow.train.corpus import default_cache

    folder = default_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = getattr(jax.config, "jax_compilation_cache_dir", None) is None
    except OSError:
        usable = False
    if not usable:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    cache.reset_cache()  # JAX decides at its first program whether it keeps any
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Error (reading|writing) persistent")
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        cache.reset_cache()


# Names of glibc's mallopt(3).
_TRIM_THRESHOLD, _MAPS_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tune glibc's ``mallopt`` so that freed memory is kept; return whether that was possible.

    By default the C library returns a training step's work space, some hundred megabytes, to the
    system, and every page is faulted in again: a sixth of the step's time on a CPU. To be called
    before the first array is made; without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = {_ARENA_MAX: 1, _MAPS_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def named_model(run: str | Path | None, model: str | None) -> Model:
    """Load the model of a run's folder, or a published one by its folder or name; else the bundled.

    Raises `InputError` if both are given, or there is no such model.
    """
    from jaxflow.models import load
    from jaxflow.models.hub import bundled_model, bundled_names

    if run is not None and model is not None:
        raise InputError(f"expected --run or --model, got both: --run {run} --model {model}")
    if model is not None:
        return load(model)
    if run is None:
        return load(bundled_model())
    # A run is a folder: a misspelt path is not searched on the hub.
    return load(run if run in bundled_names() else Path(run))


@contextmanager
def joined(**hosts: object) -> Iterator[Processes]:
    """Join the other processes of a command by `HostOptions`, and end with them.

    An error that all processes have (`jaxflow.train.distributed.is_shared`) is raised when all have
    reached it. After an error of this process alone, it ends at once; the others notice at their
    next exchange.
    """
    from jaxflow.train.distributed import is_shared, join

    processes = join(**hosts)  # type: ignore[arg-type]
    import jax

    try:
        yield processes
    except BaseException as error:
        if processes.count > 1 and not is_shared(error):
            _exit_now(error)
        raise
    finally:
        if any(value not in (None, False) for value in hosts.values()):
            jax.distributed.shutdown()


def _exit_now(error: BaseException) -> None:
    """End this process with the message and status of an error."""
    if "Gloo" in str(error) and not isinstance(error, InputError):
        reason = str(error).strip().splitlines()[0]
        error = InputError(
            f"another process of the run has ended ({reason}): start all of them again to go on "
            "from the last checkpoint"
        )
    status = exit_status(error)
    if status is None:
        traceback.print_exception(error)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
