"""``jaxflow explain``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from jaxflow.errors import InputError

__all__ = ["Explain"]


@dataclasses.dataclass(frozen=True)
class Explain:
    """Say which tokens a prediction came from, by every method.

    The model predicts whether the verb that comes next is singular or plural. Words, and
    punctuation too, are separated by spaces. Without --html, --png and --json it prints tables;
    --json's schema is in jaxflow.eval.render.record.
    """

    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences up to their verb, each one argument: "the keys to the cabinet"."""
    file: Path | None = None
    """A file with further sentences, one a line; empty lines do not count."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A run's folder, as jaxflow train left it; by default the model that comes with jaxflow."""
    cut: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Say what holds the flow to this token down: a word of the sentence or its index from 0.
    May be given several times."""
    html: Path | None = None
    """Write a page that needs nothing else to this file."""
    png: Path | None = None
    """Write a picture to this file."""
    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Explain, then print or write."""
        import jaxflow.commands.progress as progress
        from jaxflow.eval.explanation import explainer, with_cuts
        from jaxflow.models import load
        from jaxflow.models.shipped import shipped_model

        sentences = self._all_sentences()
        explain = explainer(load(self.run_folder or shipped_model()))
        if len(sentences) == 1:
            explanations = [explain(sentences[0])]
        else:
            explanations = []
            with progress.counting("explaining") as report:
                for sentence in sentences:
                    explanations.append(explain(sentence))
                    report(len(explanations), len(sentences))
        if self.cut:
            explanations = [with_cuts(explanation, self.cut) for explanation in explanations]

        if self.html is not None:
            from jaxflow.eval.render.page import as_page

            page = as_page(explanations).encode()
            self._write(self.html, lambda path: _fill(path, page))
        if self.png is not None:
            from jaxflow.eval.render.picture import save_png

            self._write(self.png, lambda path: save_png(explanations, path))
        if self.json:
            from jaxflow.eval.render.record import as_json

            sys.stdout.write(as_json(explanations))
        elif self.html is None and self.png is None:
            from rich.console import Console

            from jaxflow.eval.render.shade import NOTE
            from jaxflow.eval.render.terminal import print_explanation

            console = Console(highlight=False)
            if not console.is_terminal:  # a file has no width that a table must fit
                console = Console(highlight=False, width=200)
            for explanation in explanations:
                print_explanation(console, explanation)
                print()
            print(NOTE)

    def _all_sentences(self) -> list[str]:
        sentences = list(self.sentences)
        if self.file is not None:
            try:
                lines = self.file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(
                    f"{self.file} must be a text file of sentences, it cannot be read: {reason}"
                ) from error
            sentences += [line for line in lines if line.strip()]
        if not sentences:
            raise InputError(
                'expected a sentence to explain, such as jaxflow explain "the keys to the '
                'cabinet", or --file with some'
            )
        return sentences

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        from jaxflow.eval.files import write_together

        (written,) = write_together(path.parent, {path.name: write})
        print(f"wrote {written}", file=sys.stderr if self.json else sys.stdout)


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
