"""``jaxflow benchmark``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.benchmarks.record import Comparison

__all__ = ["Benchmark"]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time the project against its peers on the same work.

    Peers that are not installed are named and left out: OR-tools and igraph for flow, PyTorch for
    rollout and training. Without options it takes about a minute.
    """

    what: tyro.conf.Positional[Literal["all", "flow", "rollout", "train"]] = "all"
    """The work."""
    full: bool = False
    """All sizes and kinds of attention, with more rounds; many minutes."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A trained run whose attention is used for flow too."""
    tokens: str | None = None
    """Lengths of the sentences for flow and rollout, such as 9,20; by default those of the plan."""
    layers: int | None = None
    """Layers for flow and rollout; by default those of the plan."""
    json: Path | None = None
    """Write the record to this file."""

    def run(self) -> None:
        """Time and print, a comparison at a time."""
        from rich.console import Console

        from jaxflow.eval.benchmarks.record import as_json, print_comparison
        from jaxflow.eval.benchmarks.timing import METHOD
        from jaxflow.eval.files import write_together

        if self.layers is not None and self.layers < 1:
            raise InputError(f"layers must be at least 1, got {self.layers}")
        console = Console(highlight=False)
        if not console.is_terminal:  # a file has no width that a table must fit
            console = Console(highlight=False, width=160)
        console.print(METHOD + "\n", soft_wrap=True)
        found = []
        for comparison in self._comparisons(self._lengths()):
            print_comparison(console, comparison)
            found.append(comparison)
        if self.json is not None:
            text = as_json(found)
            write_together(
                self.json.parent,
                {self.json.name: lambda path: _write(path, text)},
            )
            print(f"wrote {self.json}")

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

    def _flow(self, lengths: tuple[int, ...] | None) -> Iterator[Comparison]:
        from jaxflow.eval.benchmarks import flow
        from jaxflow.eval.benchmarks.attentions import KINDS

        plan = flow.FULL if self.full else flow.QUICK
        works, batch = plan.works, plan.batch
        if lengths is not None:
            works = tuple(
                flow.FlowWork(kind, self.layers or 6, n) for n in lengths for kind in KINDS
            )
            batch = flow.FlowWork("bert-like", self.layers or 6, lengths[-1])
        elif self.layers is not None:
            works = _distinct(dataclasses.replace(work, layers=self.layers) for work in works)
            batch = dataclasses.replace(batch, layers=self.layers)
        if self.run_folder is not None:
            own = lengths or ((9, 20, 44) if self.full else (9, 20))
            works = (*(flow.FlowWork("trained", 0, n) for n in own), *works)
            batch = flow.FlowWork("trained", 0, lengths[-1] if lengths else 20)
        plan = dataclasses.replace(plan, works=works, batch=batch)
        yield from flow.run_flow(plan, self.run_folder)

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
