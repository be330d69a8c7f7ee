"""Provide the command ``jaxflow explain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import (
    ModelOptions,
    given,
    head,
    options,
    paired,
    refuse,
)
from jaxflow.commands._runtime import compilation_cache
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.eval.explanation import Explanation

#: The targets of gradients of a prediction, as in `jaxflow.eval.score.target`.
Target = Literal["difference", "log-odds", "probability", "predicted", "last", "output"]
PICTURED = 20  # sentences that fit one picture


@options
class ImageOptions:
    """For a picture and a vision Transformer."""

    heads: Annotated[str | None, "mean|max|min|INDEX"] = None
    """How heads are fused in a picture's maps, or the index of one head; by default mean."""
    discard: float | None = None
    """Share of each layer's lowest attention that a picture's maps leave out, from 0 to below 1."""
    readout: Literal["cls", "mean"] | None = None
    """Whose row a picture's maps show: that of [CLS] or the mean of all patches; by default what
    the model reads its classes off."""
    occlusion: bool = False
    """Hide each patch of a picture in turn, too: a forward pass a patch."""


@options
class TargetOptions:
    """What is explained, and the replacement of a token that is blanked out."""

    target: Annotated[str | None, "NAME|TOKEN|BEGIN:END"] = None
    """Of a prediction the target of gradients: difference is p0 - p1, the default of two classes;
    log-odds and probability are of the explained output, log-odds the default of other models;
    predicted and last are logits; output is that of a regression, its only target. Of a language
    model a token that may follow the prompt, its text or # and its number; with --generate or
    --answer the whole answer, or its tokens from BEGIN to before END, from 0; by default each
    token of the answer."""
    against: Annotated[str | None, "TOKEN"] = None
    """Explain the difference of two log-probabilities, that of the target's token minus this
    one's."""
    replacement: Literal["mask", "unk", "end"] | None = None
    """Replacement of a token that is blanked out: the mask token, the default of a pretrained model
    that has one, or the token for unknown words, the default of others."""


@options
class AnswerOptions:
    """For an answer that a language model gives to a prompt, explained token by token."""

    generate: int | None = None
    """Continue the prompt by at most so many tokens, and explain each of them."""
    answer: str | None = None
    """Explain this answer instead, as it follows the prompt."""
    sinks: Literal["keep", "drop"] | None = None
    """Whether rollout keeps the share of the first token, on which attention rests, and of
    attention sinks, as it does by default, or gives shares of the rest."""
    chat: bool = False
    """Put the prompt into the model's chat template."""
    units: Literal["words", "sentences", "lines", "passages"] | None = None
    """What the prompt's tokens are joined to; by default words, with --passages those."""
    passages: Path | None = None
    """A JSON list of parts of the prompt, texts or objects with "text", in their order."""
    parquet: Path | None = None
    """Write every score to this .parquet file."""
    seed: int | None = None
    """Draw the answer's tokens at random with this seed; by default the likeliest are taken."""


@options
class Explain:
    """Score the tokens that a prediction came from, by every method.

    The bundled model predicts whether the next verb is singular or plural; it, and runs of jaxflow
    train, read whole words, with the punctuation at their ends as words of its own. --model takes a
    published model instead: BERT, DistilBERT, RoBERTa, GPT-2 or Llama and its kin, with classes,
    labels or numbers, as a language model (write [MASK] for a masked one), or without a head for
    its attention alone. Without --html, --png and --json it prints tables. Blank-out runs the model
    once for every token: long texts take as much longer.
    """

    sentences: tyro.conf.Positional[Annotated[tuple[str, ...], "SENTENCE"]] = ()
    """Sentences up to their verb, each one argument: "the keys to the cabinet"."""
    file: Path | None = None
    """A file with further sentences, one a line, or - for standard input; empty lines do not
    count."""
    pair: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "TEXT"]] = ()
    """The second text of a model that reads two, such as of entailment; once for each sentence."""
    source: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    by: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "METHOD"]] = ()
    """A method: raw, rollout, flow, blank-out, gradient-norm, or EDGE/AGGREGATOR such as
    gradient/product, which jaxflow edges lists. May be given several times; by default these
    five."""
    layer: tyro.conf.UseAppendAction[Annotated[tuple[int, ...], "NUMBER"]] = ()
    """The layer whose token is explained, from 0; by default the top one. With an answer it may be
    given several times."""
    residual: float | None = None
    """Share of the residual connection in rollout and flow, from 0 to 1; by default 0.5."""
    label: Annotated[str | None, "NAME|INDEX"] = None
    """The class, label or number to explain; by default the one with the highest probability."""
    words: bool = False
    """Join the pieces of a word, for a published model."""
    scoring: TargetOptions = dataclasses.field(default_factory=TargetOptions)
    answering: AnswerOptions = dataclasses.field(default_factory=AnswerOptions)
    image: Path | None = None
    """A picture to explain with a vision Transformer, named with --model; the maps over it go to
    --png, by default beside the picture."""
    picture: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    cut: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "WORD|INDEX"]] = ()
    """Print the minimum cut that limits the flow to this token: a word of the sentence or its index
    from 0. May be given several times; the first time on a new installation takes half a minute."""
    html: Path | None = None
    """Write an interactive page, complete in one file, or print it (-)."""
    png: Path | None = None
    """Write a picture of at most 20 sentences, or print it (-)."""
    json: Path | None = None
    """Write JSON to this .json file, or print it (-, or no file)."""

    def run(self) -> None:
        """Explain, then print or write."""
        if self.image is not None:
            self._explain_image(self.image)
            return
        refuse(given(self.picture), "be asked for with --image only")
        asked, wanted = self.answering, self.scoring
        token = wanted.against is not None or (
            wanted.target is not None and wanted.target not in get_args(Target)
        )
        if token or asked.generate is not None or asked.answer is not None:
            self._explain_answer()
            return
        refuse(given(asked), "be asked for with --generate, --answer or a token as --target only")
        if len(self.layer) > 1:
            raise InputError(f"layer must be one for a prediction, got {len(self.layer)}")
        explanations = self._explain(self._all_sentences())
        if self.html is not None:
            from jaxflow.eval.explain.page import as_page

            terminal.save(self.html, as_page(explanations))
        if self.png is not None:
            from jaxflow.eval.explain.picture import save_png

            terminal.save(self.png, lambda path: save_png(explanations, path))
        if self.json is not None:
            from jaxflow.eval.explain.text import as_json

            terminal.save(self.json, as_json(explanations))
        if self.html is self.png is self.json is None:
            from jaxflow.eval.explain.text import print_explanation
            from jaxflow.eval.plots.style import NOTE

            console = terminal.console()
            for explanation in explanations:
                print_explanation(console, explanation)
                print()
            if console.color_system is not None:
                print(NOTE)

    def _explain(self, sentences: list[str]) -> list[Explanation]:
        from jaxflow.eval.explanation import explainer, with_cuts

        with compilation_cache():
            explain = explainer(
                self.source.load(),
                methods=self.by or None,
                layer=self.layer[0] if self.layer else -1,
                residual=0.5 if self.residual is None else self.residual,
                words=self.words,
                label=self.label,
                target=self.scoring.target,  # type: ignore[arg-type]
                replacement=self.scoring.replacement,
            )
            texts = paired(sentences, self.pair)
            if len(texts) == 1:
                explanations = [explain(*texts[0])]
            else:
                explanations = []
                with terminal.counting("explaining") as report:
                    for both in texts:
                        explanations.append(explain(*both))
                        report(len(explanations), len(texts))
        if self.cut:
            explanations = [with_cuts(explanation, self.cut) for explanation in explanations]
        return explanations

    def _explain_answer(self) -> None:
        """Answer a prompt, explain each token of the answer, and print or write."""
        from jaxflow.eval.explain import answer as answers
        from jaxflow.eval.explain import answer_shown as shown

        asked, wanted = self.answering, self.scoring
        options = given(self, "pair", "label", "words", "cut", "png")
        refuse([*options, *given(wanted, "replacement")], "not be asked for with an answer")
        if self.source.model is None:
            raise InputError(
                "generate, answer and a token as target need --model with a language model; the "
                f"targets of other models are {', '.join(get_args(Target))}"
            )
        prompts = self._all_sentences()
        if len(prompts) != 1:
            raise InputError(f"expected one prompt to answer, got {len(prompts)}")
        passages = answers.read_passages(asked.passages) if asked.passages is not None else ()
        with compilation_cache():
            found = answers.explain_answer(
                self.source.load(),
                prompts[0],
                answer=asked.answer,
                generate=asked.generate,
                target=wanted.target,
                against=wanted.against,
                temperature=0.0 if asked.seed is None else 1.0,
                seed=asked.seed or 0,
                chat=asked.chat,
                methods=self.by or answers.DEFAULT,
                layers=self.layer or None,
                residual=0.5 if self.residual is None else self.residual,
                sinks=asked.sinks or "keep",
                units=asked.units or ("passages" if passages else "words"),
                passages=passages,
            )
        if self.html is not None:
            terminal.save(self.html, shown.as_answer_page(found))
        if self.json is not None:
            terminal.save(self.json, shown.as_answer_json(found))
        if asked.parquet is not None:
            terminal.save(asked.parquet, shown.as_answer_parquet(found))
        if self.html is self.json is asked.parquet is None:
            shown.print_answer(terminal.console(), found)

    def _explain_image(self, image: Path) -> None:
        """Classify a picture, write its maps over it and print a summary."""
        texts = ("sentences", "file", "pair", "by", "layer", "residual", "label", "words", "cut")
        refuse(
            [
                *given(self, *texts, "html", "json"),
                *given(self.source, "run_folder"),
                *given(self.scoring),
            ],
            "not be asked for with --image",
        )
        if self.source.model is None:
            raise InputError(
                "image needs --model with a vision Transformer: its folder or its name"
            )
        from jaxflow.eval.explain.picture import save_overlay
        from jaxflow.eval.explain.text import print_image_explanation
        from jaxflow.eval.explain.vision import VisionOptions, explain_image

        heads = head(self.picture.heads)
        chosen = VisionOptions(
            readout=self.picture.readout,
            heads="mean" if heads is None else heads,
            ratio=self.picture.discard or 0.0,
        )
        occlusion: Literal["mean"] | None = "mean" if self.picture.occlusion else None
        found = explain_image(self.source.load(), image, chosen, occlusion=occlusion)
        png = self.png or image.with_name(f"{image.stem}.overlay.png")
        if str(png) == "-":  # the picture alone: a summary would be mixed into it
            terminal.save(png, lambda path: save_overlay(found, path))
            return
        written = save_overlay(found, png)
        print_image_explanation(terminal.console(), found)
        terminal.print_written([written])

    def _all_sentences(self) -> list[str]:
        sentences = list(self.sentences)
        if self.file is not None:
            sentences += terminal.read_sentences(self.file)
        if self.png is not None and len(sentences) > PICTURED:
            raise InputError(
                f"png must be used for at most {PICTURED} sentences, got {len(sentences)}: a "
                "picture has no space for more"
            )
        if not sentences:
            raise InputError(
                'expected a sentence to explain, such as jaxflow explain "the keys to the '
                'cabinet", or --file with some'
            )
        return sentences
