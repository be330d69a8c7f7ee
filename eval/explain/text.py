"""Write explanations of sentences and images as text on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.explanation import METHODS, Explanation
from jaxflow.eval.plots.style import ink, relative, shade, visible
from jaxflow.eval.report.table import Table as ReportTable
from jaxflow.eval.report.text import json_text, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.eval.explain.vision import ImageExplanation


def headline(explanation: Explanation) -> str:
    """Return the prediction and its probability, with those of the other classes."""
    chosen = explanation.prediction
    others = ", ".join(
        f"{name} {value:.3f}" for name, value in explanation.probabilities.items() if name != chosen
    )
    return f"{chosen} {explanation.probabilities[chosen]:.3f} ({others})"


def notes(explanation: Explanation) -> list[str]:
    """Return notes on the scores: unknown words, saturated flow, gradients, cuts."""
    lines = []
    if explanation.unknown:
        words = ", ".join(visible(word) for word in explanation.unknown)
        seen = next(token.seen for token in explanation.tokens if not token.known)
        lines.append(f"Not in the vocabulary, read as {visible(seen)}: {words}")
    lowered = [
        f"{visible(token.text)} as {visible(token.seen)}"
        for token in explanation.tokens
        if token.known and token.seen != token.text
    ]
    if lowered:
        lines.append(f"Read in lower case: {', '.join(dict.fromkeys(lowered))}")
    count = int(explanation.saturated.sum())
    if count:
        lines.append(
            f"Flow is at its bound for {count} of {len(explanation.tokens)} tokens: there it "
            "says only how much the lowest layer attends to them"
        )
    lines.append(explanation.scoring.describe())
    for cut in explanation.cuts:
        token = visible(explanation.tokens[cut.token].text)
        lines.append(
            f"Flow to {token} (token {cut.token}) is {cut.value:.3g}, held down at: "
            f"{visible(cut.summary)}"
        )
    return lines


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Print one explanation: tokens down, methods across, each cell shaded by its score."""
    from rich.table import Table
    from rich.text import Text

    def write(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    write(visible(explanation.text), "bold")
    write(f"prediction: {headline(explanation)}")
    top = len(explanation.attention)
    readout = visible(explanation.tokens[explanation.readout].text)
    write(f"raw attention, rollout and flow: of {readout} after layer {top}, the top one", "dim")

    table = Table(box=None, pad_edge=False)
    table.add_column("token", no_wrap=True)
    for title in METHODS.values():
        table.add_column(title, justify="right", no_wrap=True)
    shares = {name: relative(values) for name, values in explanation.scores.items()}
    for place, token in enumerate(explanation.tokens):
        cells = [Text(visible(token.text), style="" if token.known else "italic")]
        for name in METHODS:
            paper = shade(shares[name][place])
            style = f"rgb{ink(paper)} on rgb{paper}".replace(" ", "").replace("onrgb", " on rgb")
            cells.append(Text(f" {explanation.scores[name][place]:.3g} ", style=style))
        table.add_row(*cells)
    console.print(table)

    write("agreement (Spearman over the tokens)")
    rows = [
        (title, *map(float, row))
        for title, row in zip(METHODS.values(), explanation.agreement, strict=True)
    ]
    ReportTable.of(["", *METHODS.values()], rows).print(console)
    for line in notes(explanation):
        write(line)


FORMAT = "jaxflow-explanation-1"


def record(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Return explanations as JSON values.

    Returns
    -------
    dict
        ``{"format": "jaxflow-explanation-1", "methods": [M names], "sentences": [...]}``, one
        sentence for each explanation, in order:

        ================= =========================================================
        ``text``          the sentence as given
        ``prediction``    the likeliest class or token: ``"singular"`` or ``"plural"``
        ``probabilities`` ``{"singular": p, "plural": p}``
        ``tokens``        n objects ``{"text", "seen", "known"}``
        ``readout``       index of the token that the prediction is computed from, of ``[CLS]`` 0
        ``target``        what the gradient is of, `jaxflow.eval.score.target`
        ``replacement``   of blank-out, ``mask`` or ``unk``
        ``unknown``       the words that the vocabulary does not have
        ``scores``        method -> n numbers, top layer, readout row
        ``agreement``     method -> method -> Spearman's correlation, null where undefined
        ``layers``        ``raw``, ``rollout``, ``flow`` -> L lists of n numbers, bottom first
        ``saturated``     n booleans: flow is at the bound of its token
        ``cuts``          for each token chosen ``{"token", "value", "edges", "words",
                          "summary"}``: its index, the flow to it, the edges
                          ``[layer, query, key]`` that hold it down, from 0, and the same in words,
                          layers from 1
        ================= =========================================================
    """
    return {
        "format": FORMAT,
        "methods": list(METHODS),
        "sentences": [_sentence(explanation) for explanation in explanations],
    }


def as_json(explanations: Sequence[Explanation]) -> str:
    """Write explanations as strict JSON text (no NaN), `record`'s form."""
    return json_text(record(explanations))


def _sentence(explanation: Explanation) -> dict[str, Any]:
    agreement = {
        name: dict(zip(METHODS, to_json(row), strict=True))
        for name, row in zip(METHODS, explanation.agreement, strict=True)
    }
    return {
        "text": explanation.text,
        "prediction": explanation.prediction,
        "probabilities": to_json(explanation.probabilities),
        "tokens": to_json(explanation.tokens),
        "readout": explanation.readout,
        **explanation.scoring.record(),
        "unknown": list(explanation.unknown),
        "scores": to_json(explanation.scores),
        "agreement": agreement,
        "layers": to_json(explanation.layers),
        "saturated": to_json(explanation.saturated),
        "cuts": to_json(explanation.cuts),
    }


_SHOWN = 5  # classes and patches


def image_record(explanation: ImageExplanation) -> dict[str, Any]:
    """Return an explanation as JSON values.

    Keys ``image``, ``size`` (height and width), ``prediction``, ``probabilities`` (pairs of class
    and number; names may occur twice), ``readout``, ``options``, ``scores`` (method -> rows
    of columns, the top layer), ``layers`` (method -> the same for each layer) and ``cls_share``
    (method -> number for each layer).
    """
    return {
        "image": explanation.name,
        "size": list(explanation.picture.shape[:2]),
        "prediction": explanation.labels[explanation.prediction],
        "probabilities": to_json(
            list(zip(explanation.labels, explanation.probabilities.tolist(), strict=True))
        ),
        "readout": explanation.readout,
        "options": to_json(explanation.options),
        "scores": to_json(explanation.scores),
        "layers": to_json(explanation.layers),
        "cls_share": to_json(explanation.cls_share),
    }


def as_image_json(explanation: ImageExplanation) -> str:
    """Write `image_record`'s result as strict JSON text."""
    return json_text(image_record(explanation))


def print_image_explanation(console: Console, explanation: ImageExplanation) -> None:
    """Print the likeliest classes, and each method's highest patches with their share."""
    from rich.text import Text

    likely = np.argsort(-explanation.probabilities, kind="stable")[:_SHOWN]
    named = [
        f"{explanation.labels[place]} {explanation.probabilities[place]:.3f}" for place in likely
    ]
    console.print(Text(f"{explanation.name}: ", "bold") + Text(", ".join(named)))
    height, width = explanation.picture.shape[:2]
    rows, columns = next(iter(explanation.scores.values())).shape
    row = "[CLS] row" if explanation.readout == "cls" else "mean of the patches' rows"
    console.print(
        Text(
            f"top layer, {row}, {rows} x {columns} patches of {width / columns:.4g} x "
            f"{height / rows:.4g} pixels; row and column from 1, share of the whole image",
            "dim",
        )
    )
    table = []
    for name, scores in explanation.scores.items():
        total = np.abs(scores).sum()
        best = np.argsort(-scores, axis=None, kind="stable")[:_SHOWN].tolist()
        cells = [
            f"{place // columns + 1},{place % columns + 1} {scores.flat[place] / total:.1%}"
            if total
            else "-"
            for place in best
        ]
        share = explanation.cls_share.get(name)
        table.append((name, None if share is None else f"{share[-1]:.1%}", *cells))
    patches = (f"patch {place + 1}" for place in range(min(_SHOWN, rows * columns)))
    ReportTable.of(["", "on [CLS]", *patches], table).print(console)
