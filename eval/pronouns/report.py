"""The numbers of masked pronouns as text: on a terminal, as Markdown and for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxflow.eval.pronouns.agreement import Agreement, Correlation, Rows
from jaxflow.eval.pronouns.choice import METHODS, Case
from jaxflow.eval.report.text import interval, json_text, layer_names, short
from jaxflow.eval.stats import Share

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Section", "case_record", "print_pronouns", "sections", "to_markdown"]

NOTES = (
    "A method prefers the referent from which more reaches the mask, the model the one whose "
    "pronoun is more probable. Intervals of shares are Wilson's 95 % intervals. At L1 rollout and "
    "flow are the same, half raw attention and half identity. Flow to a word cannot exceed the "
    "column sum of A[1], which does not depend on the mask: compare it with that baseline."
)
NAMES = {
    "column_sum": "column sum of A[1]",
    "nearest": "nearest to the mask",
    "first": "first in the sentence",
}


@dataclass(frozen=True)
class Section:
    """A title, what to say under it, and a table: names of columns, then lines of as many texts."""

    title: str
    text: str
    head: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()


def sections(
    paper: Sequence[Case], own: Sequence[Case], found: Agreement, count: int
) -> list[Section]:
    """Say all there is to say, a section a table.

    Parameters
    ----------
    paper, own
        Sentences whose weights are shown.
    found
        The agreement over the `count` sentences that are counted.
    count
        How many those are.
    """
    parts = [_of_case(case) for case in (*paper, *own)]
    first, intended = found.model_first, found.model_intended
    model = (
        f"{count} sentences. The model prefers the referent that stands first in {_with_n(first)}"
    )
    if intended.n:
        model += f", and the one that people mean in {_with_n(intended)} that have one"
    if found.undecided:
        model += f"; both pronouns are equally probable in {found.undecided}, which are left out"
    parts.append(_shares("Same referent as the model", f"{model}.", found.sentences, 0.5))
    n = found.turned.baselines["first"].n
    pairs = f"{n} pairs in which the model prefers the first referent once and the second once."
    title = "Same referents as the model in both sentences of a pair in which it turns"
    parts.append(_shares(title, pairs, found.turned, 0.25))
    lines = []
    for name, cells in found.correlations.items():
        lines.append([name, *(short(cell.rho) for cell in cells)])
        lines.append(["95 %", *map(_interval, cells)])
    layers = layer_names(len(found.correlations["raw"]))
    parts.append(
        Section(
            "Spearman's correlation of the difference of weights with the log-odds",
            "Over the sentences; the difference is relative to the sum of both weights.",
            ["", *layers],
            lines,
        )
    )
    return parts


def _of_case(case: Case) -> Section:
    schema = case.schema
    said = ", ".join(
        f"{filler} ({name}) {_probability(value)}"
        for filler, name, value in zip(
            schema.fillers, schema.referents, case.probabilities, strict=True
        )
    )
    share = 1 / (1 + math.exp(-case.log_odds)) if abs(case.log_odds) < 700 else case.log_odds > 0
    said += f"; between the two {short(share)} and {short(1 - share)}"
    lines = []
    for method in METHODS:
        for which, name in enumerate(schema.referents):
            weights = case.weights[method][:, which]
            lines.append([f"{method}, {name}", *map(_weight, weights.tolist())])
    layers = layer_names(len(case.weights["raw"]))
    return Section(schema.sentence, f"Model: {said}.", ["", *layers], lines)


def _shares(title: str, text: str, rows: Rows, chance: float) -> Section:
    lines = []
    for name, cells in rows.methods.items():
        lines.append([name, *(short(cell.share) for cell in cells)])
        lines.append(["95 %", *map(_interval, cells)])
    baselines = [f"{NAMES[name]} {_with_interval(cell)}" for name, cell in rows.baselines.items()]
    text = f"{text} Baselines: {', '.join(baselines)}, chance {short(chance)}.{_ties(rows)}"
    layers = layer_names(len(rows.methods["raw"]))
    return Section(title, text, ["", *layers], lines)


def _ties(rows: Rows) -> str:
    counted = [
        f"{name} {', '.join(f'L{place} {cell.ties}' for place, cell in cells)}"
        for name, row in rows.methods.items()
        if (cells := [(place, cell) for place, cell in enumerate(row, start=1) if cell.ties])
    ]
    counted += [f"{NAMES[name]} {cell.ties}" for name, cell in rows.baselines.items() if cell.ties]
    return f" Ties, left out of the shares: {'; '.join(counted)}." if counted else " No ties."


def _probability(value: float) -> str:
    """Three decimals, or the power of ten of what they would not show."""
    return _weight(value) if value >= 0.001 else f"{value:.1e}"


def _weight(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _interval(cell: Share | Correlation) -> str:
    return interval(cell.ci95).replace(" ", "")  # so that more layers fit side by side


def _with_interval(cell: Share) -> str:
    return f"{short(cell.share)} {interval(cell.ci95)}"


def _with_n(cell: Share) -> str:
    return f"{_with_interval(cell)} of {cell.n}"


def to_markdown(
    paper: Sequence[Case],
    own: Sequence[Case],
    found: Agreement,
    count: int,
    made_with: Mapping[str, Any],
) -> str:
    """Return all sections, and what they were made with, as a Markdown document."""
    blocks = ["# Which referent a masked pronoun takes", NOTES]
    for section in sections(paper, own, found, count):
        rows = [section.head, ["---"] * len(section.head), *section.lines]
        grid = "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)
        blocks += [f"## {_escaped(section.title)}", _escaped(section.text), grid]
    blocks += ["## Made with", f"```json\n{json_text(made_with)}```"]
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    """Keep what a sentence of a user holds from being read as markup."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return text


def print_pronouns(
    console: Console,
    paper: Sequence[Case],
    own: Sequence[Case],
    found: Agreement,
    count: int,
) -> None:
    """Print all sections; tables wider than the console go on in blocks of layers."""
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        # As Text, because [MASK] is no markup; a file has no width to break lines at.
        console.print(Text(text, style), soft_wrap=not console.is_terminal)

    for section in sections(paper, own, found, count):
        say(section.title, "bold")
        say(section.text)
        _print_table(console, section, Text)
        say("")
    say(NOTES, "dim")


def _print_table(console: Console, section: Section, text: Callable[..., Any]) -> None:
    from rich.table import Table

    rows = [section.head, *section.lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(section.head))]
    start = 1
    while start < len(widths):
        stop = start + 1
        while (
            stop < len(widths)
            and widths[0] + sum(width + 1 for width in widths[start : stop + 1]) <= console.width
        ):
            stop += 1
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
        table.add_column(text(""), no_wrap=True, min_width=widths[0])
        for column in range(start, stop):
            table.add_column(section.head[column], justify="right", min_width=widths[column])
        for row in section.lines:
            style = "dim" if row[0] == "95 %" else ""
            table.add_row(text(row[0]), *map(text, row[start:stop]), style=style)
        console.print(table)
        start = stop


def case_record(case: Case) -> dict[str, Any]:
    """Return a sentence's numbers as ``pronouns.json`` holds them."""
    schema = case.schema
    return {
        "pair": schema.pair,
        "sentence": schema.sentence,
        "referents": schema.referents,
        "fillers": schema.fillers,
        "intended": None if schema.intended is None else schema.referents[schema.intended],
        "tokens": case.tokens,
        "pieces": case.pieces,
        "probabilities": case.probabilities,
        "log_odds": case.log_odds,
        "weights": case.weights,
        "column_sums": case.column_sums,
        "distances": case.distances,
    }
