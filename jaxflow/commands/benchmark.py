"""Provide the command ``jaxflow benchmark``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import numbers, options
from jaxflow.commands._runtime import keep_freed_memory
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.benchmarks.timing import Comparison


@options
class Benchmark:
    """Time the project against its peers on the same work.

    Peers that are not installed are named and left out: OR-tools and igraph for flow, PyTorch for
    rollout and training, transformers for published models. Without options it takes a few minutes.
    """

    what: tyro.conf.Positional[Literal["all", "flow", "rollout", "rows", "train", "models"]] = "all"
    """The work."""
    full: bool = False
    """All sizes and kinds of attention, with more rounds; the better part of an hour."""
    run_folder: Path | None = None
    """A trained run whose attention on the test sentences of its corpus is used for flow too."""
    data: Path | None = None
    """Use that of the bundled model instead, on the agreement corpus in this folder."""
    model: Path | None = None
    """A folder with a published BERT, DistilBERT or RoBERTa for the forward pass and loading; by
    default one of the 6-layer MiniLM's sizes with random parameters."""
    tokens: Annotated[str | None, "NUMBER,..."] = None
    """Lengths of the sentences for flow and rollout, such as 9,20, and of the text for rows alone,
    such as 4096; by default several."""
    layers: int | None = None
    """Layers for flow and rollout; by default several."""
    json: Path | None = None
    """Write the record to this .json file, or print it (-, or no file), the tables on stderr."""

    def run(self) -> None:
        """Time and print one comparison after the other."""
        from rich.console import Console

        from jaxflow.eval.benchmarks.timing import (
            METHOD,
            describe_machine,
            print_comparison,
            to_record,
        )
        from jaxflow.eval.report import json_text

        if self.run_folder is not None and self.data is not None:
            raise InputError("--run and --data name the sentences both: expected one of them")
        if self.layers is not None and self.layers < 1:
            raise InputError(f"layers must be at least 1, got {self.layers}")
        if self.model is not None and self.what not in ("all", "models"):
            raise InputError(f"--model is for the benchmark models, got {self.what}")
        lengths = numbers("tokens", self.tokens, "9,20")
        if lengths is not None and min(lengths) < 2:
            raise InputError(f"tokens must be at least 2, got {self.tokens}")
        if self.what in ("all", "train", "models"):
            keep_freed_memory()  # for PyTorch in the same process, too
        machine = describe_machine()  # before the load is that of the benchmark
        stdout = self.json == Path("-")
        console = Console(highlight=False, stderr=stdout)
        console.print(METHOD + "\n")
        found = []
        for comparison in self._comparisons(lengths):
            print_comparison(console, comparison)
            found.append(comparison)
        text = json_text(to_record(found, machine))
        if self.json is not None:
            terminal.save(self.json, text)

    def _comparisons(self, lengths: tuple[int, ...] | None) -> Iterator[Comparison]:
        from jaxflow.eval.benchmarks import encoders, flow, rollout
        from jaxflow.eval.benchmarks.timing import Budget

        full = self.full
        if self.what in ("all", "flow"):
            own = None
            if self.run_folder is not None or self.data is not None:
                own = flow.trained_attention(self.run_folder, self.data)
            works = flow.flow_works(
                full=full, lengths=lengths, layers=self.layers, trained=own is not None
            )
            yield from flow.run_flow(works, Budget(8.0 if full else 1.0), own)
        if self.what in ("all", "rollout"):
            sizes = rollout.FULL if full else rollout.QUICK
            if lengths is not None:
                sizes = tuple((32 if full else 8, n, 6) for n in lengths)
            if self.layers is not None:
                sizes = tuple(dict.fromkeys((batch, n, self.layers) for batch, n, _ in sizes))
            yield from rollout.run_rollout(sizes, Budget(1.5 if full else 1.0))
        if self.what in ("all", "rows"):
            texts = rollout.ROWS_FULL if full else rollout.ROWS_QUICK
            if self.what == "rows" and lengths is not None:
                texts = lengths
            yield from rollout.run_rows(texts, Budget(4.0 if full else 1.0))
        budget = Budget(12.0, 40) if full else Budget(4.0)
        if self.what in ("all", "train"):
            yield from encoders.run_train(budget)
        if self.what in ("all", "models"):
            yield from encoders.run_models(
                encoders.FULL if full else encoders.QUICK,
                budget,
                folder=self.model,
                loads=5 if full else 3,
            )
