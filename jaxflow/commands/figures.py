"""Provide the command ``jaxflow figures``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxflow.commands._console import print_written
from jaxflow.commands._options import options
from jaxflow.commands._runtime import named_model
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SENTENCE = "the key to the cabinets"  # the paper's kind of sentence


@options
class Figures:
    """Draw the paper's figures and tables from results and a model.

    Correlations with their intervals beside the paper's, flow at its bound and entropy come from
    tables.json, correlation by length from scores.npz, training curves from the run, and the maps,
    the graph and the bars of a sentence from the run's model.
    """

    results: tyro.conf.Positional[Annotated[Path, "RESULTS"]]
    """A folder with tables.json, as jaxflow reproduce or jaxflow evaluate wrote it."""
    run_folder: Path | None = None
    """The run's folder; by default run/ in RESULTS or the folder above, as those commands leave
    it, else the model that comes with jaxflow."""
    model: Annotated[str | None, "PATH|NAME"] = None
    """A published model for the figures of a sentence: its folder or its name on the hub."""
    words: bool = False
    """Join the pieces of a word, for a published model."""
    sentence: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "SENTENCE"]] = ()
    """A sentence up to its verb; may be given several times. By default "the key to the
    cabinets"."""
    out: Path | None = None
    """Folder for the figures; by default figures/ in RESULTS."""
    format: Annotated[str, "svg,pdf,png"] = "svg"
    """File formats, separated by commas."""

    def run(self) -> None:
        """Draw every figure for which there is data."""
        from jaxflow.eval.paper.evaluate import check_out
        from jaxflow.eval.paper.scores import SentenceScores
        from jaxflow.eval.paper.tables import read_tables
        from jaxflow.eval.plots.catalogue import (
            check_formats,
            table_figures,
            write_figures,
        )
        from jaxflow.eval.plots.curves import draw_lengths, draw_training, read_journey
        from jaxflow.train.lock import hold

        formats = self.format.split(",")
        check_formats(formats)
        out = self.out or self.results / "figures"
        figures = table_figures(read_tables(self.results))
        check_out(out)
        left_out = []
        if (self.results / "scores.npz").exists():
            scores = SentenceScores.load(self.results / "scores.npz")
            figures["lengths"] = draw_lengths(scores)
        else:
            left_out.append(f"correlation by length: there is no scores.npz in {self.results}")
        run = self.run_folder or self._run_beside()
        if run is not None and (run / "metrics.jsonl").exists():
            figures["training"] = draw_training(read_journey(run))
        else:
            left_out.append("training: no folder of a run with metrics.jsonl is beside or named")
        try:
            figures |= self._of_sentences(run)
        except InputError as error:
            if run is not None or self.sentence or self.model:
                raise
            left_out.append(f"a sentence: {error}")
        with hold(out):
            files = write_figures(out, figures, formats)
        print_written(files)
        for line in left_out:
            print(f"jaxflow: left out, figures of {line}", file=sys.stderr)

    def _run_beside(self) -> Path | None:
        """Return the finished run of the results, if it is in the folder where commands put it."""
        from jaxflow.models.disk import holds_model

        for place in (self.results / "run", self.results.absolute().parent):
            if holds_model(place / "model"):
                return place
        return None

    def _of_sentences(self, run: Path | None) -> dict[str, Figure]:
        from jaxflow.eval.explanation import explainer
        from jaxflow.eval.plots.catalogue import sentence_figures

        # A named model takes precedence over the run found with the results.
        model = named_model(run if self.run_folder or not self.model else None, self.model)
        explain = explainer(model, words=self.words)
        sentences = self.sentence or (SENTENCE,)
        figures = {}
        for number, sentence in enumerate(sentences, start=1):
            start = f"sentence-{number}-" if len(sentences) > 1 else ""
            for name, figure in sentence_figures(explain(sentence)).items():
                figures[f"{start}{name}"] = figure
        return figures
