"""Provide the command ``jaxflow leaderboard``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import ScoringOptions, options
from jaxflow.commands._runtime import compilation_cache, keep_freed_memory
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.leaderboard.board import Board
    from jaxflow.eval.leaderboard.cases import Cases
    from jaxflow.eval.leaderboard.scoring import Programs
    from jaxflow.models import Model

MOST = 30  # methods on a terminal
SHOWN = 30  # sentences on the page


@options
class Leaderboard:
    """Compare every method on the same sentences: edge weights, aggregators, gradients, baselines.

    Agreement with blank-out and gradients, faithfulness by removal, hits of the subject, focus and
    cost, with intervals and paired tests. Several runs of one corpus are seeds of one board.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], "RUN"]] = ()
    """Folders that jaxflow train wrote; by default the model that comes with jaxflow, which needs
    --data."""
    data: Path | None = None
    """A folder of numpred.* files (agreement), or of train.tsv and dev.tsv with --model."""
    model: Annotated[str | None, "PATH|NAME"] = None
    """A published model with classes, judged on the sentences of dev.tsv in --data."""
    split: Annotated[str | None, "SPLIT"] = None
    """Which sentences of an agreement corpus: by default subjects, whose subjects are known, where
    there are any, else test."""
    samples: int | None = None
    """Sentences, drawn at random; by default 2000, or all where there are fewer."""
    seed: int = 0
    """Of that draw, the random baseline and the bootstrap."""
    sort: Annotated[str, "MEASURE"] = "comprehensiveness_area"
    """The measure to sort by."""
    out: Path | None = None
    """Folder for leaderboard.md, .json, .parquet and .html, critical-difference.svg and layers.svg;
    by default runs/leaderboard."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""
    scoring: ScoringOptions = dataclasses.field(default_factory=ScoringOptions)

    def run(self) -> None:
        """Compare, print and write."""
        from jaxflow.eval.leaderboard.board import MEASURES
        from jaxflow.train.lock import hold

        keep_freed_memory()
        if self.sort not in MEASURES:
            raise InputError(f"sort must be one of {', '.join(MEASURES)}, got {self.sort!r}")
        out = self.out or Path("runs") / "leaderboard"
        with hold(out):
            self._judge(out)

    def _judge(self, out: Path) -> None:
        from jaxflow.eval.leaderboard.report import print_summary, write_board
        from jaxflow.eval.leaderboard.scoring import Programs
        from jaxflow.eval.leaderboard.summary import summarise_boards
        from jaxflow.eval.score.target import scoring_of

        boards, models, names = [], [], []
        programs = None
        with compilation_cache():
            for name, model, cases in self._runs_with_cases():
                if programs is None or not programs.fit(model):
                    chosen = scoring_of(model, self.scoring.target, self.scoring.replacement)
                    programs = Programs(model, chosen)
                boards.append(self._board(name, model, cases, programs))
                models.append(model)
                names.append(name)
        summary = summarise_boards(boards, key=self.sort, seed=self.seed)
        print_summary(terminal.console(160), summary, MOST)
        print(f"{chosen.describe()}.")
        config = {
            "runs": names,
            "data": self.data,
            "split": self.split,
            "seed": self.seed,
            **chosen.record(),
            "model": models[0].config.to_dict(),
        }
        terminal.print_written(
            write_board(out, summary, boards, names, models[0], config, shown=SHOWN)
        )

    def _runs_with_cases(self) -> list[tuple[str, Model, Cases]]:
        """Load every run with its sentences."""
        from jaxflow.eval.leaderboard.cases import agreement_cases, labelled_cases
        from jaxflow.models import load
        from jaxflow.models.hub import bundled_model

        if self.model is not None:
            if self.runs or self.data is None:
                raise InputError("model needs --data with dev.tsv, and no runs beside it")
            model = load(self.model)
            cases = labelled_cases(model, self.data, self.samples, self.seed)
            return [(self.model, model, cases)]
        if not self.runs and self.data is None:
            raise InputError(
                "expected the folder of a run, or --data with an agreement corpus for the model "
                "that comes with jaxflow"
            )
        found = []
        for run in self.runs or (bundled_model(),):
            model = load(run)
            cases = agreement_cases(
                run if self.runs else None, model, self.data, self.split, self.samples, self.seed
            )
            found.append((run.name if self.runs else "agreement", model, cases))
        return found

    def _board(self, name: str, model: Model, cases: Cases, programs: Programs) -> Board:
        import contextlib

        from jaxflow.eval.leaderboard.board import run_board

        with contextlib.ExitStack() as stack:
            shown: dict[str, Any] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in shown:
                    stack.close()
                    shown[what] = stack.enter_context(terminal.counting(f"{name}: {what}"))
                shown[what](done, total)

            options: dict[str, Any] = {"programs": programs, "report": report}
            return run_board(model, cases, seed=self.seed, threads=self.threads, **options)
