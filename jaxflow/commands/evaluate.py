"""``jaxflow evaluate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

import jaxflow.commands.progress as progress
from jaxflow.commands.judging import ProtocolOptions, print_evaluation

__all__ = ["Evaluate"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge a trained run: Tables 1 and 2 beside the paper's, and its claims."""

    run_folder: tyro.conf.Positional[Path]
    """The run's folder, as jaxflow train left it."""
    out: Path | None = None
    """Folder for the results; by default evaluation/ in the run's folder."""
    data: Path | None = None
    """Where the corpus lies now, if it has moved since training."""
    seed: int = 0
    """Of the sample, the random baseline and the bootstrap."""
    options: ProtocolOptions = dataclasses.field(default_factory=ProtocolOptions)

    def run(self) -> None:
        """Evaluate and print."""
        from jaxflow.eval.evaluate import check_out, evaluate_run
        from jaxflow.train.lock import hold

        out = self.out or self.run_folder / "evaluation"
        if self.run_folder.is_dir():
            check_out(out)
        with hold(out), progress.counting("scoring") as report:
            evaluation = evaluate_run(
                self.run_folder, self.options.config(self.seed), out, data=self.data, report=report
            )
        print_evaluation(evaluation)
