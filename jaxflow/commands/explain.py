"""``jaxflow explain``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxflow.commands.images import ImageOptions, explain_picture
from jaxflow.commands.judging import ScoringOptions
from jaxflow.commands.naming import named_model
from jaxflow.commands.sentences import read_sentences
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.explain.explanation import Explanation

__all__ = ["Explain"]

PICTURED = 20  # sentences that one picture has room for


@dataclasses.dataclass(frozen=True)
class Explain:
    """Say which tokens a prediction came from, by every method.

    The model that comes with jaxflow predicts whether the verb that comes next is singular or
    plural; for it, and for runs of jaxflow train, words, and punctuation too, are separated by
    spaces. --model takes a published model instead: BERT, DistilBERT, RoBERTa or GPT-2, with
    classes or as a language model (write [MASK] for a masked one). Without --html, --png and --json
    it prints tables; --json's schema is in jaxflow.eval.explain.record. Blank-out runs the model
    once for every token: long texts take as much longer.
    """

    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences up to their verb, each one argument: "the keys to the cabinet"."""
    file: Path | None = None
    """A file with further sentences, one a line, or - for standard input; empty lines do not
    count."""
    run_folder: Annotated[str | None, tyro.conf.arg(name="run", metavar="PATH")] = None
    """A folder that jaxflow train or jaxflow export wrote; by default the model that comes with
    jaxflow."""
    model: Annotated[str | None, tyro.conf.arg(metavar="PATH|NAME")] = None
    """A published model: its folder, with config.json and model.safetensors, or its name on the
    Hugging Face hub."""
    words: bool = False
    """Join the pieces of a word, for a published model."""
    scoring: ScoringOptions = dataclasses.field(default_factory=ScoringOptions)
    image: Path | None = None
    """A picture to explain with a vision Transformer, named with --model; writes the maps over it
    to --png, by default beside the picture."""
    picture: ImageOptions = dataclasses.field(default_factory=ImageOptions)
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
        if self.image is not None:
            self._explain_image(self.image)
            return
        if self.picture.given():
            raise InputError(
                f"{' and '.join(self.picture.given())} must be asked for with --image only"
            )
        explanations = self._explain(self._all_sentences())
        if self.html is not None:
            from jaxflow.eval.explain.page import as_page

            page = as_page(explanations).encode()
            self._write(self.html, lambda path: _fill(path, page))
        if self.png is not None:
            from jaxflow.eval.explain.picture import save_png

            self._write(self.png, lambda path: save_png(explanations, path))
        if self.json:
            from jaxflow.eval.explain.record import as_json

            sys.stdout.write(as_json(explanations))
        elif self.html is None and self.png is None:
            from rich.console import Console

            from jaxflow.eval.explain.shade import NOTE
            from jaxflow.eval.explain.terminal import print_explanation

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
        from jaxflow.eval.explain.explanation import explainer, with_cuts

        with kept_programs():
            model = named_model(self.run_folder, self.model)
            explain = explainer(
                model,
                words=self.words,
                target=self.scoring.target,
                replacement=self.scoring.replacement,
            )
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

    def _explain_image(self, image: Path) -> None:
        idle = ("sentences", "file", "run_folder", "words", "cut", "html", "json")
        given = [name.removesuffix("_folder") for name in idle if getattr(self, name)]
        given += [name for name, value in vars(self.scoring).items() if value]
        if given:
            raise InputError(f"{' and '.join(given)} must not be asked for with --image")
        png = self.png or image.with_name(f"{image.stem}.overlay.png")
        explain_picture(image, self.model, self.picture, png)

    def _all_sentences(self) -> list[str]:
        sentences = list(self.sentences)
        if self.file is not None:
            sentences += read_sentences(self.file)
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
        from jaxflow.files import write_together

        (written,) = write_together(path.parent, {path.name: write})
        print(f"wrote {written}", file=sys.stderr if self.json else sys.stdout)


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
