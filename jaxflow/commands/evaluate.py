"""Provide the command ``jaxflow evaluate``."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import jaxflow.commands._console as console
from jaxflow.commands._options import HostOptions, options
from jaxflow.commands._runtime import compilation_cache
from jaxflow.commands.reproduce import ProtocolOptions, print_evaluation
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.paper.protocol import ProtocolConfig


@options
class Evaluate:
    """Evaluate a trained run: Tables 1 and 2 beside the paper's, and its claims."""

    run_folder: tyro.conf.Positional[Annotated[Path, "RUN"]]
    """The run's folder, as jaxflow train left it."""
    out: Path | None = None
    """Folder for the results; by default evaluation/ in the run's folder."""
    data: Path | None = None
    """Folder of the corpus, if it has moved since training."""
    seed: int = 0
    """Of the sample, the random baseline and the bootstrap."""
    batch: int = 32
    """Sentences that the model scores at once; a small model needs many to fill an accelerator."""
    judging: ProtocolOptions = dataclasses.field(default_factory=ProtocolOptions)
    shards: int | None = None
    """Work through all test sentences in that many shards, which several processes can share and
    which are not done again; without --processes: what is missing, then the tables."""
    hosts: HostOptions = dataclasses.field(default_factory=HostOptions)

    def run(self) -> None:
        """Evaluate and print."""
        from jaxflow.eval.paper.evaluate import check_out, evaluate_run
        from jaxflow.train.lock import hold

        if self.shards is None and self.hosts.given:
            raise InputError("several processes need shards to share: give their number, --shards")
        out = self.out or self.run_folder / "evaluation"
        if self.run_folder.is_dir():
            check_out(out)
        if self.shards is not None:
            # Processes that share shards need no lock; the one that is alone makes the tables too.
            with contextlib.nullcontext() if self.hosts.given else hold(out):
                self._in_shards(out, self.shards)
            return
        with hold(out), compilation_cache(), console.counting("scoring") as report:
            evaluation = evaluate_run(
                self.run_folder, self._protocol(), out, data=self.data, report=report
            )
        print_evaluation(evaluation)

    def _protocol(self) -> ProtocolConfig:
        return dataclasses.replace(self.judging.config(self.seed), batch=self.batch)

    def _in_shards(self, out: Path, shards: int) -> None:
        processes = self.hosts.join()
        from jaxflow.eval.sharded.run import open_sharded

        evaluation = open_sharded(self.run_folder, self._protocol(), out, shards, data=self.data)
        with console.counting("scoring") as report:
            evaluation.work(processes.index, processes.count, report)
        if not self.hosts.given:
            print_evaluation(evaluation.merge(out))
            return
        missing = len(evaluation.missing())
        print(
            f"process {processes.index} of {processes.count} has finished its shards: "
            f"{shards - missing} of {shards} are in {evaluation.folder}"
        )
