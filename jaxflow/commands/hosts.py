"""The options by which one process of many finds the others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxflow.train.processes import Processes

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
        from jaxflow.train.processes import join

        return join(**dataclasses.asdict(self))
