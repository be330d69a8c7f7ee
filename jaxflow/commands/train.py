"""Provide the command ``jaxflow train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxflow.commands._console as console
from jaxflow.commands._options import HostOptions, TrainOptions, options
from jaxflow.commands._runtime import compilation_cache, keep_freed_memory
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.train.config import TrainConfig
    from jaxflow.train.distributed import Processes
    from jaxflow.train.loop import TrainResult
    from jaxflow.train.mesh import Layout


@options
class Train:
    """Train an agreement encoder; an interrupted run resumes from its last checkpoint."""

    out: Path
    """The run's folder."""
    training: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    devices: int | None = None
    """Train on that many devices, each with its part of every batch; by default all."""
    shard_params: bool = False
    """Split large parameters over the devices too, for models that one cannot hold."""
    hosts: HostOptions = dataclasses.field(default_factory=HostOptions)

    def run(self) -> None:
        """Train, and print the accuracy on every split that was not trained on."""
        keep_freed_memory()
        shown = not self.hosts.given or self.hosts.process == 0
        with (
            console.starting("preparing the corpus and the encoder", shown=shown) as begun,
            self.hosts.together() as processes,
            compilation_cache(),
        ):
            config, result = self._train(processes, begun)
        if processes.index:
            return
        for name, score in result.accuracy.items():
            line = f"{name:10s} accuracy {score['accuracy']:.4f} of {score['n']}"
            if score["too_long"]:
                line += (
                    f" ({score['too_long']} longer than {config.positions} tokens count as wrong)"
                )
            print(line)
        print(f"trained {result.seconds / 60:.1f} minutes; model in {self.out / 'model'}")

    def _train(
        self, processes: Processes, begun: Callable[[], None]
    ) -> tuple[TrainConfig, TrainResult]:
        from jaxflow.train.config import TrainConfig
        from jaxflow.train.distributed import by_each, by_first
        from jaxflow.train.loop import train
        from jaxflow.train.run import read_config

        def stored() -> dict[str, Any] | None:
            there = read_config(self.out)
            return None if there is None else there.to_dict()

        kept = by_first(stored)
        config = by_each(
            lambda: self.training.config(None if kept is None else TrainConfig.from_dict(kept))
        )
        layout = by_each(lambda: self._layout(processes))
        if processes.index:
            return config, train(config, self.out, layout=layout)
        with console.training(begun) as report:
            return config, train(config, self.out, report, layout=layout)

    def _layout(self, processes: Processes) -> Layout:
        from jaxflow.train.mesh import layout_of

        if self.devices is not None and processes.count > 1:
            raise InputError(
                "several processes train on all their devices: leave --devices out, and let each "
                "process see those that it is to use"
            )
        return layout_of(self.devices, shard_params=self.shard_params)
