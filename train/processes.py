"""One process or many: how they find each other, and which of them this one is."""

from __future__ import annotations

import dataclasses

import jax

from jaxflow.errors import InputError

__all__ = ["ALONE", "Processes", "join"]


@dataclasses.dataclass(frozen=True)
class Processes:
    """A group of processes, as this one sees it.

    Attributes
    ----------
    index
        This one's number, from 0.
    count
        How many there are.
    """

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

    Parameters
    ----------
    cluster
        Whether JAX finds the others itself: under Slurm, Open MPI, Kubernetes or on Cloud TPU.
    coordinator
        ``HOST:PORT`` of process 0, where JAX does not; needs `processes` and `process`.
    processes, process
        How many there are, and this one's number. Without a coordinator the processes do not know
        of each other: each has its own devices only, which is all that work in shards needs.

    Raises
    ------
    InputError
        If the options do not go together, or the others cannot be found.
    """
    if (processes is None) != (process is None):
        raise InputError("processes and process must be given together, got one of them")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(
            f"process must be from 0 to {processes - 1}, one less than the processes, got {process}"
        )
    if cluster and (coordinator is not None or processes is not None):
        raise InputError(
            "cluster must be given alone: coordinator, processes and process say what it would find"
        )
    if coordinator is not None and processes is None:
        raise InputError("coordinator needs processes and process beside it, got neither")
    if not cluster and coordinator is None:
        return ALONE if processes is None or process is None else Processes(process, processes)
    # Only CPUs look at this: other devices have exchanges of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM away from Python, which then never hears of it.
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
