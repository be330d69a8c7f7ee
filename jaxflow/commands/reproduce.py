"""Provide the command ``jaxflow reproduce``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jaxflow.commands._console as console
from jaxflow.commands._options import TrainOptions, options
from jaxflow.commands._runtime import keep_freed_memory
from jaxflow.commands.evaluate import ProtocolOptions, print_evaluation


@options
class Reproduce:
    """Train an encoder and print the paper's Tables 1 and 2 beside its own.

    Without options it trains on the built-in grammar, which takes a few minutes on two cores.
    Further experiments, each with options of its own: jaxflow reproduce sst2 (Table 3) and jaxflow
    reproduce pronouns (Figure 4).
    """

    out: Path | None = None
    """Folder for the results, with the training run inside; by default runs/CORPUS-seedS."""
    training: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    judging: ProtocolOptions = dataclasses.field(default_factory=ProtocolOptions)

    def run(self) -> None:
        """Train, evaluate and print."""
        from jaxflow.eval.paper.evaluate import evaluate
        from jaxflow.train.lock import hold
        from jaxflow.train.loop import train

        keep_freed_memory()
        config = self.training.config()
        protocol = self.judging.config(config.seed)
        out = self.out or Path("runs") / f"{config.corpus}-seed{config.seed}"
        with hold(out):
            with console.training() as report:
                result = train(config, out / "run", report)
            with console.counting("scoring") as count:
                evaluation = evaluate(
                    result.model,
                    result.held_out,
                    config,
                    protocol,
                    out,
                    accuracy=result.accuracy,
                    seconds=result.seconds,
                    report=count,
                )
            print_evaluation(evaluation)
