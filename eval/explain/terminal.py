"""Explanations in the terminal: tokens down, methods across, each cell shaded by its score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflow.eval.explain.explanation import METHODS, Explanation
from jaxflow.eval.explain.shade import ink, relative, shade, visible
from jaxflow.eval.report.text import short

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["headline", "notes", "print_explanation"]


def headline(explanation: Explanation) -> str:
    """Say what the model predicts."""
    chosen = explanation.prediction
    others = ", ".join(
        f"{name} {value:.3f}" for name, value in explanation.probabilities.items() if name != chosen
    )
    return f"{chosen} {explanation.probabilities[chosen]:.3f} ({others})"


def notes(explanation: Explanation) -> list[str]:
    """Say what a reader must know to read the scores right."""
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
    """Print one explanation."""
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
    agreement = Table(box=None, pad_edge=False)
    for title in ("", *METHODS.values()):
        agreement.add_column(title, justify="right" if title else "left", no_wrap=True)
    for title, row in zip(METHODS.values(), explanation.agreement, strict=True):
        agreement.add_row(title, *(short(float(value)) for value in row))
    console.print(agreement)
    for line in notes(explanation):
        write(line)
