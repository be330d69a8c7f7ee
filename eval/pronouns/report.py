"""Run the study of masked pronouns: measure, print, and write its tables and figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflow.eval.pronouns.cases import (
    METHODS,
    Agreement,
    Case,
    Correlation,
    Rows,
    agreement,
    measure,
)
from jaxflow.eval.pronouns.schemas import PAPER, Schema, read_schemas
from jaxflow.eval.report import (
    Section,
    Table,
    escaped,
    interval,
    json_text,
    layer_names,
    print_sections,
    short,
    to_markdown,
    versions,
)
from jaxflow.eval.stats import Share
from jaxflow.files import Content, write_together

if TYPE_CHECKING:
    from rich.console import Console

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


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """The results of a model."""

    paper: tuple[Case, ...]  # the paper's two sentences
    own: tuple[Case, ...]  # further sentences of the user; shown, not counted
    cases: tuple[Case, ...]  # the sentences that are counted
    found: Agreement  # over `cases`
    config: Mapping[str, Any]  # what it was made with


def study(
    model: Any,
    schemas: Sequence[Schema],
    *,
    own: Sequence[Schema] = (),
    described: Mapping[str, Any] | None = None,
    residual: float = 0.5,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Measure the paper's sentences, those that are counted, and the further ones of `own`.

    `described` states where the model and the sentences are from, for the files; the other
    arguments are those of `jaxflow.eval.pronouns.cases.measure`. Raises `InputError` if the model
    or a sentence is not usable, or there is none to count.
    """
    paper = read_schemas(PAPER)
    every = [*paper, *own, *schemas]
    cases = measure(model, every, residual=residual, threads=threads, report=report)
    shown, first = len(paper), len(paper) + len(own)
    config = {**(described or {}), "residual": residual, "architecture": model.config.to_dict()}
    return Study(cases[:shown], cases[shown:first], cases[first:], agreement(cases[first:]), config)


def write_study(out: Path, done: Study) -> list[Path]:
    """Write ``pronouns.md``, ``pronouns.json``, ``config.json`` and the figures, or none of them.

    ``figure4.svg`` has the paper's sentences, ``agreement.svg`` the shares by layer, and
    ``sentences.svg`` the further sentences, if there are any.

    Raises `InputError` if the folder cannot be written to.
    """
    from jaxflow.eval.plots.pronouns import draw_pronoun_agreement, draw_referents
    from jaxflow.eval.plots.style import save

    made_with = {"config": done.config, "versions": versions()}
    content = {
        "paper": [case_record(case) for case in done.paper],
        "own": [case_record(case) for case in done.own],
        "agreement": done.found,
        "sentences": [case_record(case) for case in done.cases],
        **made_with,
    }
    files: dict[str, Content] = {
        "pronouns.md": markdown(done, made_with),
        "pronouns.json": json_text(content),
        "config.json": json_text(made_with),
        "figure4.svg": partial(save, draw_referents(done.paper), form="svg"),
        "agreement.svg": partial(save, draw_pronoun_agreement(done.found), form="svg"),
    }
    if done.own:
        files["sentences.svg"] = partial(save, draw_referents(done.own), form="svg")
    return write_together(out, files)


def print_study(console: Console, done: Study) -> None:
    """Print all sections; tables wider than the console go on in parts of some layers each."""
    print_sections(console, [*sections(done), Section(note=NOTES)])


def markdown(done: Study, made_with: Mapping[str, Any]) -> str:
    """Write all sections, and what they were made with, as a Markdown document."""
    title = "Which referent a masked pronoun takes"
    return to_markdown(title, [Section(text=NOTES), *sections(done)], made_with, escape=escaped)


def sections(done: Study) -> list[Section]:
    """Return all results, a section a table."""
    found, count = done.found, len(done.cases)
    first, intended = found.model_first, found.model_intended
    model = (
        f"{count} sentences. The model prefers the referent that stands first in {_with_n(first)}"
    )
    if intended.n:
        model += f", and the one that people mean in {_with_n(intended)} that have one"
    if found.undecided:
        model += f"; both pronouns are equally probable in {found.undecided}, which are left out"
    n = found.turned.baselines["first"].n
    pairs = f"{n} pairs in which the model prefers the first referent once and the second once."
    rhos = {name: [(cell.rho, cell) for cell in row] for name, row in found.correlations.items()}
    return [
        *map(_of_case, (*done.paper, *done.own)),
        _shares("Same referent as the model", f"{model}.", found.sentences, 0.5),
        _shares(
            "Same referents as the model in both sentences of a pair in which it turns",
            pairs,
            found.turned,
            0.25,
        ),
        Section(
            "Spearman's correlation of the difference of weights with the log-odds",
            "Over the sentences; the difference is relative to the sum of both weights.",
            _with_intervals(rhos),
        ),
    ]


def case_record(case: Case) -> dict[str, Any]:
    """Return a sentence's numbers as ``pronouns.json`` holds them."""
    schema = case.schema
    names = ("tokens", "pieces", "probabilities", "log_odds", "weights", "column_sums", "distances")
    return {
        "pair": schema.pair,
        "sentence": schema.sentence,
        "referents": schema.referents,
        "fillers": schema.fillers,
        "intended": None if schema.intended is None else schema.referents[schema.intended],
        **{name: getattr(case, name) for name in names},
    }


def _of_case(case: Case) -> Section:
    schema = case.schema
    fillers = ", ".join(
        # A power of ten where three decimals would show nothing.
        f"{filler} ({name}) {_weight(value) if value >= 0.001 else f'{value:.1e}'}"
        for filler, name, value in zip(
            schema.fillers, schema.referents, case.probabilities, strict=True
        )
    )
    share = 1 / (1 + math.exp(-case.log_odds)) if abs(case.log_odds) < 700 else case.log_odds > 0
    text = f"Model: {fillers}; between the two {short(share)} and {short(1 - share)}."
    rows = [
        [f"{method}, {name}", *map(_weight, case.weights[method][:, which].tolist())]
        for method in METHODS
        for which, name in enumerate(schema.referents)
    ]
    layers = layer_names(len(case.weights["raw"]))
    return Section(schema.sentence, text, Table.of(["", *layers], rows))


def _shares(title: str, text: str, rows: Rows, chance: float) -> Section:
    baselines = [
        f"{NAMES[name]} {short(cell.share)} {interval(cell.ci95)}"
        for name, cell in rows.baselines.items()
    ]
    text = f"{text} Baselines: {', '.join(baselines)}, chance {short(chance)}.{_ties(rows)}"
    shares = {name: [(cell.share, cell) for cell in row] for name, row in rows.methods.items()}
    return Section(title, text, _with_intervals(shares))


def _with_intervals(rows: Mapping[str, Sequence[tuple[float, Share | Correlation]]]) -> Table:
    lines: list[list[Any]] = []
    for name, row in rows.items():
        lines.append([name, *(value for value, _ in row)])
        # Without the blank more layers fit side by side.
        lines.append(["95 %", *(interval(cell.ci95).replace(" ", "") for _, cell in row)])
    head = ["", *layer_names(len(rows["raw"]))]
    return Table.of(head, lines, styles=["", "dim"] * len(rows))


def _ties(rows: Rows) -> str:
    counted = [
        f"{name} {', '.join(f'L{place} {cell.ties}' for place, cell in cells)}"
        for name, row in rows.methods.items()
        if (cells := [(place, cell) for place, cell in enumerate(row, start=1) if cell.ties])
    ]
    counted += [f"{NAMES[name]} {cell.ties}" for name, cell in rows.baselines.items() if cell.ties]
    return f" Ties, left out of the shares: {'; '.join(counted)}." if counted else " No ties."


def _weight(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _with_n(cell: Share) -> str:
    return f"{short(cell.share)} {interval(cell.ci95)} of {cell.n}"
