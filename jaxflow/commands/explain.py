"""``jaxflow explain``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.explanation import Explanation

__all__ = ["Explain"]

PICTURED = 20  # sentences that one picture has room for


@dataclasses.dataclass(frozen=True)
class Explain:
    """Say which tokens a prediction came from, by every method.

    The model predicts whether the verb that comes next is singular or plural. Words, and
    punctuation too, are separated by spaces. Without --html, --png and --json it prints tables;
    --json's schema is in jaxflow.eval.render.record. Nothing needs to be trained: a model comes
    with jaxflow.
    """

    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences up to their verb, each one argument: "the keys to the cabinet"."""
    file: Path | None = None
    """A file with further sentences, one a line, or - for standard input; empty lines do not
    count."""
    run_folder: Annotated[str | None, tyro.conf.arg(name="run", metavar="PATH")] = None
    """A folder that jaxflow train or jaxflow export wrote; by default the model that comes with
    jaxflow."""
    cut: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Say what holds the flow to this token down: a word of the sentence or its index from 0.
    May be given several times, and takes half a minute the first time on a new installation."""
    html: Path | None = None
    """Write a page that needs nothing else to this file."""
    png: Path | None = None
    """Write a picture to this file, of at most 20 sentences."""
    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Explain, then print or write."""
        explanations = self._explain(self._all_sentences())
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

    def _explain(self, sentences: list[str]) -> list[Explanation]:
        import jaxflow.commands.progress as progress
        from jaxflow.commands.compiled import kept_programs
        from jaxflow.eval.explanation import explainer, with_cuts
        from jaxflow.models import load
        from jaxflow.models.shipped import shipped_model

        with kept_programs():
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
        return explanations

    def _all_sentences(self) -> list[str]:
        sentences = list(self.sentences)
        if self.file is not None:
            standard = str(self.file) == "-"
            try:
                data = sys.stdin.buffer.read() if standard else self.file.read_bytes()
                text = data.decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or error
                name = "standard input" if standard else self.file
                raise InputError(
                    f"{name} must be text, a sentence a line, and cannot be read: {reason}"
                ) from error
            # Only line ends: some text has other characters that Python takes for one.
            sentences += [line.strip("\r") for line in text.split("\n") if line.strip()]
        if self.png is not None and len(sentences) > PICTURED:
            raise InputError(
                f"png must be asked for at most {PICTURED} sentences, got {len(sentences)}: a "
                "picture has no room for more"
            )
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
