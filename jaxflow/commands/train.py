"""``jaxflow train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jaxflow.commands.progress as progress
from jaxflow.commands.heap import keep_heap
from jaxflow.commands.training import TrainOptions

__all__ = ["Train"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an agreement encoder; a run that was cut off goes on from its last checkpoint."""

    out: Path
    """The run's folder."""
    options: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    devices: int | None = None
    """Train on that many devices, each with its part of every batch; by default all."""
    shard_params: bool = False
    """Split large parameters over the devices too, for models that one cannot hold."""

    def run(self) -> None:
        """Train, and print the accuracy on every split that was not trained on."""
        from jaxflow.train.journal import read_config
        from jaxflow.train.loop import train
        from jaxflow.train.mesh import layout_of

        keep_heap()
        config = self.options.config(read_config(self.out))
        layout = layout_of(self.devices, shard_params=self.shard_params)
        with progress.training() as report:
            result = train(config, self.out, report, layout=layout)
        for name, score in result.accuracy.items():
            line = f"{name:10s} accuracy {score['accuracy']:.4f} of {score['n']}"
            if score["too_long"]:
                line += (
                    f" ({score['too_long']} longer than {config.positions} tokens count as wrong)"
                )
            print(line)
        print(f"trained {result.seconds / 60:.1f} minutes; model in {self.out / 'model'}")
