"""Provide the command ``jaxflow attribute``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxflow.commands._options import head, numbers, options
from jaxflow.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jaxflow.eval.score.attention import Attribution, SavedAttention

TOP = 5  # tokens that the summary names


@options
class Attribute:
    """Compute token attention from attention that any framework saved, or from a model's.

    The file holds an array 'attention' [..., layers, heads, tokens, tokens], optionally 'mask'
    [..., tokens] (boolean, true at real tokens) and 'tokens' [..., tokens] (text or numbers).
    bfloat16 and float16 are made float32, each row divided by its sum. With --model it is a text, a
    sentence a line, and the attention is the model's.
    """

    attention_file: tyro.conf.Positional[Annotated[Path, "FILE"]]
    """The npz file, or the text."""
    model: Annotated[str | None, "PATH|NAME"] = None
    """A model to read the text: a folder of a run or a published model, or a name on the Hugging
    Face hub."""
    pair: Path | None = None
    """A file of second texts, one for each line of the text, with --model."""
    words: bool = False
    """Join the pieces of a word, with --model."""
    method: Literal["raw", "rollout", "flow", "head-rollout"] = "rollout"
    """How attention is followed through the layers."""
    out: Path | None = None
    """The npz file to write, with the array 'token_attention'; by default FILE.METHOD.npz."""
    residual: float | None = None
    """Share of the residual connection, from 0 to 1; by default 0.5. Raw attention has none."""
    heads: Annotated[str | None, "mean|max|min|INDEX"] = None
    """How heads are fused, or the index of one head; by default mean. Head rollout keeps all."""
    layers: Annotated[str | None, "INDEX,..."] = None
    """Layers to keep, by their index from 0 at the bottom: 0,5; by default all."""
    sources: Annotated[str | None, "INDEX,..."] = None
    """Tokens whose embeddings are explained, by their index: 0; by default all."""
    threads: int | None = None
    """Threads for flow; by default all cores."""
    patient: bool = False
    """Begin flows that may take more than an hour."""

    def run(self) -> None:
        """Compute, write and print a summary."""
        from jaxflow.eval.score.attention import (
            AttributionOptions,
            attribute,
            read_attention,
            write_attribution,
        )

        chosen = AttributionOptions(
            method=self.method,
            residual=self.residual,
            heads=head(self.heads),
            layers=numbers("layers", self.layers),
            sources=numbers("sources", self.sources),
            threads=self.threads,
            patient=self.patient,
        )
        source = self.attention_file
        for name in ("words", "pair"):
            if getattr(self, name) and self.model is None:
                raise InputError(f"{name} has no meaning without --model: leave it out")
        stem = source.stem if self.model else source.name.removesuffix(".npz")
        out = self.out or source.with_name(f"{stem}.{self.method}.npz")
        if out.absolute() == source.absolute() or (out.exists() and out.samefile(source)):
            raise InputError(f"out must be another file than {source}, which it would replace")
        saved = read_attention(source) if self.model is None else self._attention()
        if saved.half is not None:
            note = f"{source}: {saved.half} made float32, each row divided by its sum"
            print(note, file=sys.stderr)
        result = attribute(saved, chosen)
        write_attribution(out, result)
        for line in summary(result):
            print(line)
        print(f"wrote {out}")

    def _attention(self) -> SavedAttention:
        """Return the model's attention in the file's sentences."""
        import jaxflow.commands._console as console
        from jaxflow.commands._console import read_sentences
        from jaxflow.commands._runtime import named_model
        from jaxflow.eval.score.attention import attention_of

        sentences = read_sentences(self.attention_file)
        if not sentences:
            raise InputError(f"{self.attention_file} must hold a sentence a line, got none")
        pairs = None if self.pair is None else read_sentences(self.pair)
        model = named_model(None, self.model)
        with console.counting("reading") as report:
            return attention_of(model, sentences, pairs, words=self.words, report=report)


def summary(result: Attribution) -> list[str]:
    """Return lines that state what was computed, and the top tokens of the first source."""
    import numpy as np

    from jaxflow.eval.plots.style import is_constant, visible

    values, source, options = result.token_attention, result.source, result.options
    batch = len(source.attention.shape) - 4
    axes = ["batch"] * batch + ["layers", "tokens", "tokens"]
    if options["method"] == "head-rollout":
        axes.insert(batch + 1, "heads")
    sizes = " x ".join(f"{size} {name}" for size, name in zip(values.shape, axes, strict=True))
    lines = [f"{options['method']}: {sizes}, {values.dtype}"]
    if source.tokens is None:
        return lines

    n = values.shape[-1]
    tokens = source.tokens.reshape(-1, n)[0]
    words = [
        visible(word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word))
        for word in tokens.tolist()
    ]
    top_layer = int(np.argmax(options["layers"]))
    row = values[(0,) * batch][top_layer]
    row = row.mean(0)[0] if options["method"] == "head-rollout" else row[0]
    real = np.ones(n, bool) if source.mask is None else source.mask.reshape(-1, n)[0]
    places = np.flatnonzero(real)
    if is_constant(row[places]):
        top = f"the same for all {len(places)} tokens, {row[places[0]]:.3f}"
    else:
        top = ", ".join(_top(row[places], [words[place] for place in places]))
    layer, token = options["layers"][top_layer], options["sources"][0]
    token = token if token >= 0 else int(np.flatnonzero(real)[token])
    where = "first sentence, " if batch else ""
    lines.append(f"{where}layer {layer}, token {token} ({words[token]}): {top}")
    return lines


def _top(scores: NDArray[np.floating], words: list[str]) -> Iterator[str]:
    """Yield the highest scores with their words, those that tie with one number."""
    from jaxflow.eval.plots.style import ranked

    left = TOP
    for group in ranked(scores):
        if left > 0:
            tied = " = ".join(words[place] for place in group[:left])
            more = f" = ... ({len(group)} tie)" if len(group) > left else ""
            yield f"{tied}{more} {scores[group[0]]:.3f}"
        left -= len(group)
