"""Join the processes of one run, and exchange results and errors between them.

Each call of `by_first`, `by_each`, `check_same`, `tree_of_first` and `StopRequest` is a collective
operation that every process must call, in the same order; with a single process it only does the
work. Arrays are exchanged by `jax.experimental.multihost_utils`; this module adds errors, text and
signals.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxflow.errors import InputError
from jaxflow.stopping import Stopped

T = TypeVar("T")

# Messages are filled up to a multiple of so many bytes, because each length is compiled.
_FILLED = 1024

# Steps between a process's report of a signal and the step in which all processes read it: by then
# the exchange has long ended, so no step waits for it.
_DELAY = 2

_SHARED = "every process of the run raises this"


@dataclasses.dataclass(frozen=True)
class Processes:
    """Number of this process, from 0, in a group of `count` processes."""

    index: int
    count: int


ALONE = Processes(0, 1)
"""A process without others."""


def join(
    *,
    cluster: bool = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Processes:
    """Join the other processes, if there are any; to be called before JAX is used.

    With `cluster` JAX finds the others itself: under Slurm, Open MPI, Kubernetes or on Cloud TPU.
    Else `coordinator` is ``HOST:PORT`` of process 0, `processes` how many there are, and `process`
    this one's number. Without a coordinator the processes do not communicate: each has its own
    devices only, which is all that work in shards needs. Raises `InputError` if the options do not
    go together, or the others cannot be found.
    """
    if (processes is None) != (process is None):
        raise InputError("processes and process must be given together, got one of them")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(
            f"process must be from 0 to {processes - 1}, one less than the processes, got {process}"
        )
    if cluster and (coordinator is not None or processes is not None):
        raise InputError(
            "cluster must be given alone: it finds what coordinator, processes and process state"
        )
    if coordinator is not None and processes is None:
        raise InputError("coordinator needs processes and process beside it, got neither")
    if not cluster and coordinator is None:
        return ALONE if processes is None or process is None else Processes(process, processes)
    # Only CPUs use this: other devices have collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would replace Python's handler of SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the other processes cannot be joined ({reason}): name one of them with coordinator, "
            "processes and process"
        ) from error
    return Processes(jax.process_index(), jax.process_count())


def is_shared(error: BaseException) -> bool:
    """Return whether all processes raise an error, so that each may wait for the others' end."""
    return _SHARED in getattr(error, "__notes__", ())


def _shared(error: BaseException) -> BaseException:
    error.add_note(_SHARED)
    return error


@contextmanager
def alike() -> Iterator[None]:
    """Mark errors raised in a block as raised by every process, from the same numbers."""
    try:
        yield
    except (InputError, Stopped) as error:
        if jax.process_count() > 1:
            _shared(error)
        raise


def by_first(work: Callable[[], T]) -> T:
    """Call a function in process 0 and return its JSON-ready result, or raise its error, in all."""
    if jax.process_count() == 1:
        return work()
    value: Any = None
    raised: BaseException | None = None
    message: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            value = work()
            message = {"value": value}
        except InputError as error:
            raised, message = error, {"error": str(error)}
        except Stopped as error:
            raised, message = error, {"stopped": [error.number, error.kept]}
        except BaseException as error:
            _send({"error": f"process 0 has failed: {error!r}"})
            raise
    message = _send(message)
    if "error" in message:
        raise _shared(raised or InputError(message["error"]))
    if "stopped" in message:
        raise _shared(raised or Stopped(*message["stopped"]))
    return value if jax.process_index() == 0 else message["value"]


def by_each(work: Callable[[], T]) -> T:
    """Call a function in every process; if it fails in one of them, raise that error in all."""
    if jax.process_count() == 1:
        return work()
    value: Any = None
    wrong = ""
    try:
        value = work()
    except InputError as error:
        wrong = str(error)
    failed = np.flatnonzero(_gather(np.uint8(bool(wrong))))
    if len(failed):
        first = int(failed[0])
        message = _send({"error": wrong}, first)["error"]
        raise _shared(InputError(f"process {first}: {message}" if first else message))
    return value


def check_same(what: str, digest: bytes) -> None:
    """Refuse processes whose checksums of something, of one length in all, differ."""
    if jax.process_count() == 1:
        return
    found = _gather(np.frombuffer(digest, np.uint8))
    differ = np.flatnonzero((found != found[0]).any(1))
    with alike():
        if len(differ):
            raise InputError(
                f"{what} must be the same in every process, that of process {differ[0]} is another "
                f"than that of process 0: give all the same one"
            )


def tree_of_first(tree: T) -> T:
    """Return process 0's arrays, to the bit, in the host's memory; all have arrays of these shapes.

    With a single process they stay what and where they are.
    """
    if jax.process_count() == 1:
        return tree

    def send(leaf: Any) -> np.ndarray:
        # As bytes: the exchange is a sum, and of numbers it would make -0 to 0.
        values = np.asarray(leaf)
        whole = _broadcast(np.frombuffer(values.tobytes(), np.uint8), 0)
        return np.frombuffer(whole.tobytes(), values.dtype).reshape(values.shape)

    return jax.tree.map(send, tree)


class StopRequest:
    """Whether any process has received a signal, with the same answer after the same step for all.

    With a single process it is that process's own answer. With several, each step begins an
    exchange and reads the one begun two steps before, so that no step waits for one. `own`
    returns the number of the signal that this process has had, or None.
    """

    def __init__(self, own: Callable[[], int | None]) -> None:
        self._own = own
        self._begun: deque[jax.Array] = deque()
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("devices",))
            self._split = NamedSharding(mesh, PartitionSpec("devices"))
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._largest = jax.jit(jnp.max, out_shardings=everywhere)

    def __call__(self, wait: bool) -> int | None:
        """Return the number of a signal that some process has received, or None.

        All call it after every step; with `wait`, where they wait for each other anyhow, the answer
        holds for this step.
        """
        if jax.process_count() == 1:
            return self._own()
        own = np.full(jax.local_device_count(), self._own() or 0, np.int32)
        there = jax.make_array_from_process_local_data(self._split, own, (jax.device_count(),))
        self._begun.append(self._largest(there))
        while len(self._begun) > (0 if wait else _DELAY):
            if number := int(self._begun.popleft()):
                return number
        return None


def _gather(value: Any) -> np.ndarray:
    """Return every process's value, by process."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))


def _broadcast(values: np.ndarray, source: int) -> np.ndarray:
    from jax.experimental import multihost_utils

    own = jax.process_index() == source
    return np.asarray(multihost_utils.broadcast_one_to_all(values, is_source=own))


def _send(message: dict[str, Any], source: int = 0) -> dict[str, Any]:
    """Return the message of one process."""
    text = json.dumps(message).encode() if jax.process_index() == source else b""
    size = int(_broadcast(np.asarray(len(text), np.int32), source))
    filled = np.zeros(-(-size // _FILLED) * _FILLED, np.uint8)
    if jax.process_index() == source:
        filled[:size] = np.frombuffer(text, np.uint8)
    found: dict[str, Any] = json.loads(_broadcast(filled, source)[:size].tobytes())
    return found
