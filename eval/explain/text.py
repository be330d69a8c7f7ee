"""Write explanations of sentences and images as text on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.table import graph_edges
from jaxflow.eval.explanation import Explanation, title_of
from jaxflow.eval.plots.style import NOTE, ink, is_constant, paint, ranked, visible
from jaxflow.eval.report import Table as ReportTable
from jaxflow.eval.report import column_format, json_text, to_json
from jaxflow.eval.score.engine import at_suffix
from jaxflow.eval.score.target import ANSWERS

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.eval.explain.vision import ImageExplanation
    from jaxflow.eval.score.reading import Token


def headline(explanation: Explanation) -> str:
    """Return what the model answers: the prediction and its probability, with the others'."""
    answer, chosen = explanation.answer, explanation.prediction
    values = explanation.probabilities
    if explanation.function:
        value = explanation.value
        if value is None:
            return f"none: the attention of {explanation.function} alone is explained"
        return f"{value:.4g}, the target of {explanation.function}"
    if answer == "none":
        return "none: the model has no head, and its attention alone is explained"
    if answer == "regression":
        stated = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
        stated += " (a number, not a probability)"
    else:
        others = [f"{name} {value:.3f}" for name, value in values.items() if name != chosen]
        stated = f"{chosen} {values[chosen]:.3f} ({', '.join(others)})"
        if answer == "multi-label":
            stated += f", {ANSWERS[answer]}"
    if explanation.explained != chosen or (answer == "regression" and len(values) > 1):
        stated += f"; explained: {explanation.explained}"
    return stated


def cautions(explanation: Explanation) -> list[str]:
    """Return notes on scores that rank nothing: constant ones, and flow at its bound."""
    constant = [title_of(name) for name in explanation.constant]
    lines = [f"The same for all tokens: {', '.join(constant)}"] if constant else []
    flow = next((name for name in explanation.scores if name in ("flow", "raw/flow")), None)
    reached = int(explanation.saturated.sum())
    if flow and reached:
        lines.append(
            f"{'Flow' if flow == 'flow' else flow} is at its bound for {reached} of "
            f"{len(explanation.tokens)} tokens: there it says only how much the lowest layer "
            "attends to them"
        )
    if flow == "flow" and explanation.layer > 0 and len(explanation.attention):
        layers = explanation.attention[: explanation.layer + 1]
        edges, _ = graph_edges(layers, explanation.residual, "mean", None)
        at = at_suffix(edges, explanation.readout, explanation.scores["flow"])
        if at.any():
            lines.append(
                f"Flow is the sum of layer {explanation.layer + 1}'s attention to a token and all "
                f"later ones for {int(at.sum())} of {len(explanation.tokens)} tokens: there it "
                "does not depend on the layers below"
            )
    return lines


def notes(explanation: Explanation) -> list[str]:
    """Return notes on the scores: unknown words, `cautions`, gradients, cuts."""
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
    lines += cautions(explanation)
    if explanation.scoring is not None and explanation.scores.keys() - explanation.layers.keys():
        lines.append(explanation.scoring.describe())
    lines += explanation.remarks
    for cut in explanation.cuts:
        token = visible(explanation.tokens[cut.token].text)
        lines.append(
            f"Flow to {token} (token {cut.token}) is {cut.value:.3g}, held down at: "
            f"{visible(cut.summary)}"
        )
    return lines


def score_table(tokens: Sequence[Token], scores: Mapping[str, NDArray[np.float64]]) -> Any:
    """Return a table of `rich`, tokens down and methods across, each cell shaded by its score."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("token", no_wrap=True)
    for title in scores:
        table.add_column(title, justify="right", no_wrap=True)
    papers = {title: paint(values) for title, values in scores.items()}
    forms = {title: column_format(values) for title, values in scores.items()}
    for place, token in enumerate(tokens):
        cells = [Text(visible(token.text), style="" if token.known else "italic")]
        for title, values in scores.items():
            colours = (ink(papers[title][place]), papers[title][place])
            front, back = (f"rgb({','.join(map(str, colour))})" for colour in colours)
            cells.append(Text(f" {values[place]:{forms[title]}} ", style=f"{front} on {back}"))
        table.add_row(*cells)
    return table


def of_layer(explanation: Explanation) -> str:
    """Return what the scores of the methods with layers are of."""
    depth, layer = len(explanation.attention), explanation.layer + 1
    named = [title_of(name) for name in explanation.layers]
    names = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    top = ", the top one" if layer == depth else f" of {depth}"
    readout = visible(explanation.tokens[explanation.readout].text)
    return f"{names}: of {readout} after layer {layer}{top}"


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Print one explanation: tokens down, methods across, each cell shaded by its score."""

    def write(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    from rich.text import Text

    write(visible(explanation.title), "bold")
    write(f"prediction: {headline(explanation)}")
    if explanation.layers:
        write(of_layer(explanation), "dim")
    scores = {title_of(name): values for name, values in explanation.scores.items()}
    console.print(score_table(explanation.tokens, scores))
    if len(scores) > 1:
        write("agreement (Spearman over the tokens)")
        rows = [
            (title, *map(float, row))
            for title, row in zip(scores, explanation.agreement, strict=True)
        ]
        ReportTable.of(["", *scores], rows).print(console)
    for line in notes(explanation):
        write(line)


def print_scores(console: Console, explanation: Explanation) -> None:
    """Print the scores alone, with the cautions."""
    from rich.text import Text

    console.print(Text(visible(explanation.title), style="bold"), soft_wrap=True)
    console.print(Text(of_layer(explanation), style="dim"), soft_wrap=True)
    console.print(score_table(explanation.tokens, explanation.scores))
    for line in cautions(explanation):
        console.print(Text(line), soft_wrap=True)
    if console.color_system is not None:
        print(NOTE)


FORMAT = "jaxflow-explanation-1"


def record(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Return explanations as JSON values.

    Returns
    -------
    dict
        ``{"format": "jaxflow-explanation-1", "methods": [M names], "sentences": [...]}``, one
        sentence for each explanation, in order:

        ================= =========================================================
        ``text``          the text as given
        ``pair``          the second text, or null
        ``answer``        what the model's output means: ``single-label``, ``multi-label``,
                          ``regression``, ``tokens`` or ``none``
        ``prediction``    the likeliest class or token: ``"singular"`` or ``"plural"``
        ``probabilities`` ``{"singular": p, "plural": p}``; of a regression its numbers
        ``explained``     the output that gradient and blank-out are of
        ``tokens``        n objects ``{"text", "seen", "known"}``
        ``readout``       index of the token that the prediction is computed from, of ``[CLS]`` 0
        ``layer``         the layer of ``scores``, from 0
        ``residual``      share of the residual connection
        ``target``        what the gradient is of, `jaxflow.eval.score.target`
        ``replacement``   of blank-out, ``mask`` or ``unk``
        ``unknown``       the words that the vocabulary does not have
        ``scores``        method -> n numbers, of methods with layers the readout's row of ``layer``
        ``agreement``     method -> method -> Spearman's correlation, null where undefined
        ``layers``        every method with layers -> L lists of n numbers, bottom first
        ``saturated``     n booleans: flow is at the bound of its token
        ``constant``      the methods whose scores are the same for all tokens
        ``cuts``          for each token chosen ``{"token", "value", "edges", "words",
                          "summary"}``: its index, the flow to it, the edges
                          ``[layer, query, key]`` that hold it down, from 0, and the same in words,
                          layers from 1
        ================= =========================================================
    """
    return {
        "format": FORMAT,
        "methods": list(dict.fromkeys(name for each in explanations for name in each.scores)),
        "sentences": [_sentence(explanation) for explanation in explanations],
    }


def as_json(explanations: Sequence[Explanation]) -> str:
    """Write explanations as strict JSON text (no NaN), `record`'s form."""
    return json_text(record(explanations))


def _sentence(explanation: Explanation) -> dict[str, Any]:
    names = list(explanation.scores)
    agreement = {
        name: dict(zip(names, to_json(row), strict=True))
        for name, row in zip(names, explanation.agreement, strict=True)
    }
    scoring = explanation.scoring
    return {
        "text": explanation.text,
        "pair": explanation.pair,
        "answer": explanation.answer,
        "prediction": explanation.prediction,
        "probabilities": to_json(explanation.probabilities),
        "explained": explanation.explained or None,
        "tokens": [token.record() for token in explanation.tokens],
        "readout": explanation.readout,
        "layer": explanation.layer,
        "residual": explanation.residual,
        **({"target": None, "replacement": None} if scoring is None else scoring.record()),
        "unknown": list(explanation.unknown),
        "scores": to_json(explanation.scores),
        "agreement": agreement,
        "layers": to_json(explanation.layers),
        "saturated": to_json(explanation.saturated),
        "constant": list(explanation.constant),
        "cuts": to_json(explanation.cuts),
    }


_SHOWN = 5  # classes and patches


def _valued(explanation: ImageExplanation, place: int) -> str:
    label, value = explanation.labels[place], explanation.probabilities[place]
    return (
        f"{label} = {value:.4g}" if explanation.answer == "regression" else f"{label} {value:.3f}"
    )


def image_notes(explanation: ImageExplanation, methods: Sequence[str] | None = None) -> list[str]:
    """Return notes on maps that rank nothing: constant ones, and flow at its bound."""
    chosen = list(explanation.scores) if methods is None else methods
    constant = [name for name in chosen if is_constant(explanation.scores[name])]
    lines = [f"The same for all patches: {', '.join(constant)}"] if constant else []
    if "flow" in chosen and explanation.saturated:
        lines.append(
            f"Flow is at its bound for {explanation.saturated:.0%} of the patches: there it says "
            "only how much the lowest layer attends to them"
        )
    return lines


def image_record(explanation: ImageExplanation) -> dict[str, Any]:
    """Return an explanation as JSON values.

    Keys ``image``, ``size`` (height and width), ``answer`` (what the output means), ``prediction``,
    ``probabilities`` (pairs of class and number; names may occur twice), ``readout``, ``options``,
    ``scores`` (method -> rows of columns, the top layer), ``layers`` (method -> the same for each
    layer), ``cls_share`` (method -> number for each layer), ``saturated`` (the share of the patches
    whose flow is at its bound) and ``constant`` (methods that are the same for all patches).
    """
    place, scores = explanation.prediction, explanation.scores
    return {
        "image": explanation.name,
        "size": list(explanation.picture.shape[:2]),
        "answer": explanation.answer,
        "prediction": None if place is None else explanation.labels[place],
        "probabilities": to_json(
            list(zip(explanation.labels, explanation.probabilities.tolist(), strict=True))
        ),
        "readout": explanation.readout,
        "options": to_json(explanation.options),
        "scores": to_json(scores),
        "layers": to_json(explanation.layers),
        "cls_share": to_json(explanation.cls_share),
        "saturated": explanation.saturated,
        "constant": [name for name, values in scores.items() if is_constant(values)],
    }


def print_image_explanation(console: Console, explanation: ImageExplanation) -> None:
    """Print the likeliest classes, and each method's highest patches with their share."""
    from rich.text import Text

    likely = np.argsort(-explanation.probabilities, kind="stable")[:_SHOWN].tolist()
    named = ", ".join(_valued(explanation, place) for place in likely)
    if explanation.answer in ("multi-label", "regression"):
        named += f" ({ANSWERS[explanation.answer]})"
    console.print(Text(f"{explanation.name}: ", "bold") + Text(named or ANSWERS["none"]))
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
        share = explanation.cls_share.get(name)
        table.append((name, None if share is None else f"{share[-1]:.1%}", *_best(scores)))
    patches = (f"patch {place + 1}" for place in range(min(_SHOWN, rows * columns)))
    ReportTable.of(["", "on [CLS]", *patches], table).print(console)
    for line in image_notes(explanation):
        console.print(Text(line), soft_wrap=True)


def _best(scores: NDArray[np.float64]) -> list[str]:
    """Return the highest patches with their share of the whole; ties are marked, none left out."""
    most, columns = min(_SHOWN, scores.size), scores.shape[1]
    if is_constant(scores):
        return ["all the same", *["-"] * (most - 1)]
    total, cells = np.abs(scores).sum(), list[str]()
    for group in ranked(scores):
        for place in group:
            tied = f" (one of {len(group)})" if len(group) > 1 else ""
            share = f"{scores.flat[place] / total:.1%}"
            cells.append(f"{place // columns + 1},{place % columns + 1} {share}{tied}")
    return cells[:most]
