"""Provide the command ``jaxflow leaderboard``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import ScoringOptions, given, options, own_name, refuse
from jaxflow.commands._runtime import compilation_cache, keep_freed_memory
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.leaderboard.board import Board
    from jaxflow.eval.leaderboard.cases import Cases
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
    """A published model with classes, judged on the sentences of dev.tsv in --data, or a language
    model such as GPT-2 or Llama, judged on --prompts."""
    prompts: Path | None = None
    """A text file of prompts, one a line, or a JSON list of texts or objects with prompt, answer,
    units and holds, the unit that holds the answer."""
    units: Literal["words", "sentences", "lines"] | None = None
    """What the tokens of a prompt without units are joined to; by default words."""
    generate: int | None = None
    """Let the model answer a prompt without an answer by at most so many tokens; by default 8."""
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
        programs: Any = None
        chosen = None
        with compilation_cache():
            for name, model, cases in self._runs_with_cases():
                if self.prompts is not None:
                    from jaxflow.eval.leaderboard.prompts import PromptPrograms

                    programs = PromptPrograms(model)
                elif programs is None or not programs.fit(model):
                    chosen = scoring_of(model, self.scoring.target, self.scoring.replacement)
                    programs = Programs(model, chosen)
                boards.append(self._board(name, model, cases, programs))
                models.append(model)
                names.append(name)
        summary = summarise_boards(boards, key=self.sort, seed=self.seed)
        print_summary(terminal.console(160), summary, MOST)
        if chosen is None:
            print("Gradients are of the answer's log-probability; a removed unit is deleted.")
        else:
            print(f"{chosen.describe()}.")
        config = {
            "runs": names,
            "data": self.data,
            "split": self.split,
            "seed": self.seed,
            **({} if chosen is None else chosen.record()),
            **({} if self.prompts is None else {"prompts": self.prompts.name}),
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

        if self.prompts is not None:
            return self._prompts(self.prompts)
        refuse(given(self, "units", "generate"), "be asked for with --prompts only")
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

    def _prompts(self, path: Path) -> list[tuple[str, Model, Cases]]:
        """Load a language model, and encode the prompts."""
        from jaxflow.eval.leaderboard.prompts import prompt_cases, read_prompts
        from jaxflow.models import load

        if self.model is None:
            raise InputError("prompts need --model with a language model, such as GPT-2 or Llama")
        refuse(
            [*given(self, "runs", "data", "split"), *given(self.scoring)],
            "not be asked for with --prompts",
        )
        if self.generate is not None and self.generate < 1:
            raise InputError(f"generate must be at least 1, got {self.generate}")
        prompts = read_prompts(path)
        model = load(self.model)
        cases = prompt_cases(
            model,
            prompts,
            units=self.units or "words",
            generate=self.generate or 8,
            samples=self.samples,
            seed=self.seed,
        )
        return [(own_name(self.model), model, cases)]

    def _board(self, name: str, model: Model, cases: Cases, programs: Any) -> Board:
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
