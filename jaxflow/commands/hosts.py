"""The options by which one process of many finds the others, and how they part."""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxflow.commands.ending import told
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.train.distributed import Processes

__all__ = ["HostOptions"]


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """Options of a command that runs in several processes at once."""

    cluster: bool = False
    """Let JAX find the other processes: under Slurm, Open MPI, Kubernetes or on Cloud TPU."""
    coordinator: str | None = None
    """Where JAX finds process 0, HOST:PORT; with --processes and --process."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which of them this is, from 0."""

    @property
    def given(self) -> bool:
        """Whether this is one process of several."""
        return self != HostOptions()

    def join(self) -> Processes:
        """Join the other processes; to be called before JAX is used."""
        from jaxflow.train.distributed import join

        return join(**dataclasses.asdict(self))

    @contextmanager
    def together(self) -> Iterator[Processes]:
        """Join the others for work that all do together, and that ends for all.

        An error that all have (`jaxflow.train.distributed.is_shared`) is raised when all have got
        there. One that the others do not know of ends this process at once, told as any other: they
        hear of that at their next exchange, whereas to part in order would be to wait for them.

        Raises
        ------
        InputError
            If the options do not go together, or the others cannot be found.
        """
        if self.processes is not None and self.coordinator is None and not self.cluster:
            raise InputError(
                "processes that train one model must find each other: add --coordinator HOST:PORT, "
                "or use --cluster instead"
            )
        processes = self.join()
        import jax

        from jaxflow.train.distributed import is_shared

        try:
            yield processes
        except BaseException as error:
            if processes.count > 1 and not is_shared(error):
                _leave(error)
            raise
        finally:
            if self.given:
                jax.distributed.shutdown()


def _leave(error: BaseException) -> None:
    """End this process with what the command line says of an error."""
    if "Gloo" in str(error) and not isinstance(error, InputError):
        reason = str(error).strip().splitlines()[0]
        error = InputError(
            f"another process of the run has ended ({reason}): start all of them again to go on "
            "from the last checkpoint"
        )
    status = told(error)
    if status is None:
        traceback.print_exception(error)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
