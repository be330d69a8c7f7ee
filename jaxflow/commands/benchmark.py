"""``jaxflow benchmark``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxflow.commands.heap import keep_heap
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.benchmarks.record import Comparison

__all__ = ["Benchmark"]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time the project against its peers on the same work.

    Peers that are not installed are named and left out: OR-tools and igraph for flow, PyTorch for
    rollout and training, transformers for published models. Without options it takes a few minutes.
    """

    what: tyro.conf.Positional[Literal["all", "flow", "rollout", "train", "models"]] = "all"
    """The work."""
    full: bool = False
    """All sizes and kinds of attention, with more rounds; the better part of an hour."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A trained run whose attention on the test sentences of its corpus is used for flow too."""
    data: Path | None = None
    """Use that of the model that comes along instead, on the agreement corpus in this folder."""
    model: Path | None = None
    """A folder with a published BERT, DistilBERT or RoBERTa for the forward pass and loading; by
    default one of the 6-layer MiniLM's sizes with random parameters."""
    tokens: str | None = None
    """Lengths of the sentences for flow and rollout, such as 9,20; by default those of the plan."""
    layers: int | None = None
    """Layers for flow and rollout; by default those of the plan."""
    json: Path | None = None
    """Write the record to this file."""
    docs: Path | None = None
    """Write benchmarks.md with its plots and its record to this folder."""
    record: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Time nothing: make the page of --docs from this record."""

    def run(self) -> None:
        """Time and print, a comparison at a time."""
        from jaxflow.eval.benchmarks.machine import describe_machine
        from jaxflow.eval.benchmarks.record import as_json, read_record, record
        from jaxflow.files import write_together

        if self.run_folder is not None and self.data is not None:
            raise InputError("--run and --data name the sentences both: expected one of them")
        if self.layers is not None and self.layers < 1:
            raise InputError(f"layers must be at least 1, got {self.layers}")
        if self.record is not None:
            if self.docs is None:
                raise InputError("--from makes the page of --docs: expected --docs, got none")
            self._document(read_record(self.record), self.docs)
            return
        if self.model is not None and self.what not in ("all", "models"):
            raise InputError(f"--model is for the benchmark models, got {self.what}")
        if self.what in ("all", "train", "models"):
            keep_heap()  # as the commands that train do; PyTorch, in the same process, has it too
        lengths = self._lengths()
        machine = describe_machine()  # its load is of interest before it is ours
        found = self._timed(lengths)
        if self.json is not None:
            text = as_json(found, machine)
            write_together(
                self.json.parent,
                {self.json.name: lambda path: _write(path, text)},
            )
            print(f"wrote {self.json}")
        if self.docs is not None:
            self._document(record(found, machine), self.docs)

    def _timed(self, lengths: tuple[int, ...] | None) -> list[Comparison]:
        from rich.console import Console

        from jaxflow.eval.benchmarks.record import print_comparison
        from jaxflow.eval.benchmarks.timing import METHOD

        console = Console(highlight=False)
        if not console.is_terminal:  # a file has no width that a table must fit
            console = Console(highlight=False, width=160)
        console.print(METHOD + "\n", soft_wrap=True)
        found = []
        for comparison in self._comparisons(lengths):
            print_comparison(console, comparison)
            found.append(comparison)
        return found

    @staticmethod
    def _document(record: Mapping[str, Any], folder: Path) -> None:
        from jaxflow.eval.benchmarks.document import write_document

        for path in write_document(record, folder):
            print(f"wrote {path}")

    def _comparisons(self, lengths: tuple[int, ...] | None) -> Iterator[Comparison]:
        if self.what in ("all", "flow"):
            yield from self._flow(lengths)
        if self.what in ("all", "rollout"):
            from jaxflow.eval.benchmarks import rollout

            plan = rollout.FULL if self.full else rollout.QUICK
            works = plan.works
            if lengths is not None:
                works = tuple(
                    rollout.RolloutWork(32 if self.full else 8, n, self.layers or 6)
                    for n in lengths
                )
            elif self.layers is not None:
                works = _distinct(dataclasses.replace(w, layers=self.layers) for w in works)
            yield from rollout.run_rollout(dataclasses.replace(plan, works=works))
        if self.what in ("all", "train"):
            from jaxflow.eval.benchmarks import training

            yield from training.run_train(training.FULL if self.full else training.QUICK)
        if self.what in ("all", "models"):
            from jaxflow.eval.benchmarks import models

            published = models.FULL if self.full else models.QUICK
            yield from models.run_models(dataclasses.replace(published, folder=self.model))

    def _flow(self, lengths: tuple[int, ...] | None) -> Iterator[Comparison]:
        from jaxflow.eval.benchmarks import flow, flow_plan, trained

        plan = flow_plan.FULL if self.full else flow_plan.QUICK
        own = None
        if self.run_folder is not None:
            own = trained.from_run(self.run_folder)
        elif self.data is not None:
            own = trained.from_shipped(self.data)
        plan = flow_plan.fit_plan(plan, lengths, self.layers, own)
        yield from flow.run_flow(plan, own)

    def _lengths(self) -> tuple[int, ...] | None:
        if self.tokens is None:
            return None
        try:
            lengths = tuple(int(part) for part in self.tokens.split(","))
        except ValueError as error:
            raise InputError(
                f"tokens must be whole numbers such as 9,20, got {self.tokens!r}"
            ) from error
        if min(lengths) < 2:
            raise InputError(f"tokens must be at least 2, got {self.tokens}")
        return lengths


def _distinct(works: Iterator) -> tuple:
    return tuple(dict.fromkeys(works))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
