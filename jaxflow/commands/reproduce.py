"""Provide the command ``jaxflow reproduce``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jaxflow.commands._console as console
from jaxflow.commands._options import ScoringOptions, TrainOptions, options
from jaxflow.commands._runtime import compilation_cache, keep_freed_memory

if TYPE_CHECKING:
    from jaxflow.eval.paper.protocol import ProtocolConfig
    from jaxflow.eval.paper.report import Evaluation


@options
class ProtocolOptions(ScoringOptions):
    """The sentences that are scored, on which tokens, and how."""

    samples: int | None = None
    """Test sentences to score, drawn at random; by default all, but at most 2000."""
    no_special_tokens: bool = False
    """Leave [CLS] out of the tokens that are correlated."""
    min_tokens: int = 1
    """Leave out sentences with fewer tokens, counted with [CLS]."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""

    def config(self, seed: int) -> ProtocolConfig:
        """Return the protocol's configuration."""
        from jaxflow.eval.paper.protocol import ProtocolConfig

        return ProtocolConfig(
            samples=self.samples,
            seed=seed,
            special_tokens=not self.no_special_tokens,
            min_tokens=self.min_tokens,
            threads=self.threads,
            target=self.target,
            replacement=self.replacement,
        )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables and claims of an evaluation."""
    from rich.console import Console

    from jaxflow.eval.paper.report import print_report

    print_report(Console(), evaluation)
    assert evaluation.scoring is not None
    print(f"{evaluation.scoring.describe()}.")
    print()
    console.print_written(evaluation.files)


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
        with console.starting("preparing the corpus and the encoder") as begun:
            self._run(begun)

    def _run(self, begun: Callable[[], None]) -> None:
        from jaxflow.eval.paper.evaluate import evaluate
        from jaxflow.train.lock import hold
        from jaxflow.train.loop import train

        keep_freed_memory()
        config = self.training.config()
        protocol = self.judging.config(config.seed)
        out = self.out or Path("runs") / f"{config.corpus}-seed{config.seed}"
        with hold(out), compilation_cache():
            with console.training(begun) as report:
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
