"""Print Tables 1 to 3 beside the paper's, and write them as the files of a run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from jaxflow.eval.paper.claims import DOES_NOT_HOLD, HOLDS, NOTE, Claim
from jaxflow.eval.paper.scores import SentenceScores, write_scores
from jaxflow.eval.paper.tables import LAYERS, TARGET_TITLES, Tables, beside_paper, to_csv
from jaxflow.eval.report import (
    UNDEFINED,
    Column,
    Section,
    Table,
    counts,
    interval,
    json_text,
    layer_names,
    mean_std,
    print_sections,
    probability,
    short,
    to_json,
    to_markdown,
)
from jaxflow.eval.score.target import Scoring
from jaxflow.eval.stats import Cell
from jaxflow.files import write_together

if TYPE_CHECKING:
    from rich.console import Console

#: Accuracy and counts by split.
Accuracy = Mapping[str, Mapping[str, float | int]]

#: Targets of the authors' protocol; blank-out is not one of theirs.
AUTHORS_TARGETS = ("gradient", "gradient_norm")
AUTHORS = (
    "As the authors' script has it: a token's relevance is the maximum over all queries (flows "
    "normalised a query), the gradient that of the last class's logit, ranks are dense and go into "
    "the formula for ranks without ties (two constant vectors get 1). Layers L2 and L4 are not in "
    "the paper."
)
CORRECTED = (
    "Corrected: the row of [CLS], Spearman's correlation of average ranks; NaN counts the "
    "sentences left out because one side is constant."
)
_ATTRACTORS = (
    "test_1, test_2 and so on hold the test sentences with that many attractors: nouns between "
    "subject and verb whose number is not the subject's."
)
_COLOURS = {HOLDS: "green", DOES_NOT_HOLD: "red"}


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Rounding in ``|Σ_d g_d|``, with g the gradient of the predicted class's logit.

    Attributes
    ----------
    single, double
        Median of ``|Σ_d g_d| / Σ_d |g_d|`` over all tokens with a gradient, in float32 and in
        float64: 1 where all coordinates have one sign, near the precision where they cancel.
    agreement
        Spearman's correlation per sentence between the float32 score and the float64 one: 1 for a
        quantity of the model, around 0 for rounding.
    norm_agreement
        The same for the norm ``‖g‖₂``.
    """

    single: float
    double: float
    agreement: Cell
    norm_agreement: Cell


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one model, to be printed and written.

    Attributes
    ----------
    tables, claims
        Its tables and its verdicts on the claims.
    accuracy
        Split -> numbers such as ``accuracy``, ``n`` and ``too_long``.
    scored
        The split that was scored.
    authors, rounding
        Of Table 3: the tables by the authors' own protocol, and how much of its summed gradient is
        rounding.
    scores, scoring
        The scores by sentence; target of gradients and replacement of blank-out.
    files
        What was written.
    """

    tables: Tables
    claims: tuple[Claim, ...] = ()
    accuracy: Accuracy = dataclasses.field(default_factory=dict)
    scored: str = "test"
    authors: Tables | None = None
    rounding: Rounding | None = None
    scores: SentenceScores | None = None
    scoring: Scoring | None = None
    files: tuple[Path, ...] = ()

    def sections(self, *, counted: bool = False) -> list[Section]:
        """Return all of a report but the claims; `counted` adds columns of n and NaN."""
        tables, authors = self.tables, self.authors
        sections = [_accuracy_section(self.accuracy)] if self.accuracy else []
        if authors is not None:
            about = f"{AUTHORS} {_about(authors, AUTHORS_TARGETS)}"
            sections += [_correlations(authors, target, counted) for target in AUTHORS_TARGETS]
            sections.append(Section(note=about))
        sections += [_correlations(tables, target, counted) for target in tables.correlations]
        corrected = f"{CORRECTED} " if authors is not None else ""
        sections += [
            Section(
                "Saturated share of the pairs ([CLS], token)",
                "Pairs whose flow is at its bound, the column sum of A[1] cut at 1.",
                _layers({"saturated": tables.saturation}, counted),
            ),
            Section(
                "Entropy of the [CLS] row",
                "As a share of its maximum, the logarithm of the number of tokens.",
                _layers(tables.entropy, counted),
            ),
            Section(note=corrected + _about(tables, tables.correlations)),
        ]
        if self.rounding is not None:
            note = rounding_note(self.rounding)
            sections.append(Section("What of the summed gradient is rounding", note))
        return sections


def print_report(console: Console, evaluation: Evaluation) -> None:
    """Print the tables beside the paper's, the rows the paper lacks, and the claims.

    Tables wider than the console are printed in parts of some layers each, so that no number is
    cut.
    """
    print_sections(console, evaluation.sections())
    _print_claims(console, evaluation.claims)


def markdown(evaluation: Evaluation, made_with: Any = None) -> str:
    """Write what `print_report` prints as a Markdown document.

    Layers go from L1 (bottom) up; a model of another depth than the paper's gets no comparison,
    and the text states that.
    """
    title = "Agreement of token scores with blank-out and input gradients"
    if evaluation.authors is not None:
        title = "Table 3: agreement of token scores with input gradients on SST-2"
    sections = evaluation.sections(counted=True)
    if evaluation.claims:
        sections.append(Section("Claims", "", _claim_table(evaluation.claims), NOTE))
    return to_markdown(title, sections, made_with)


def record(evaluation: Evaluation, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``tables.json``: JSON values, None where a number is undefined.

    Keys are ``tables`` (target -> row -> list of cells), ``saturation`` (list of cells),
    ``entropy`` (row -> list of cells), ``claims`` (list), ``accuracy`` (a number),
    ``accuracy_by_split`` (split -> numbers such as ``accuracy``, ``n``, ``too_long``),
    ``samples``, and ``config`` and ``versions`` of `made_with`; a cell is ``{"mean", "std", "ci95":
    [low, high], "n", "nan"}``. Raises `InputError` if something given has no JSON form.
    """
    tables, authors = evaluation.tables, evaluation.authors
    content = {
        "tables": tables.correlations,
        "saturation": tables.saturation,
        "entropy": tables.entropy,
        "claims": evaluation.claims,
        "accuracy": evaluation.accuracy.get(evaluation.scored, {}).get("accuracy"),
        "accuracy_by_split": evaluation.accuracy,
        "samples": tables.sentences,
        "config": made_with.get("config"),
        "versions": made_with.get("versions"),
    }
    if authors is not None:
        samples = authors.sentences
        content["authors_protocol"] = {"tables": authors.correlations, "samples": samples}
    if evaluation.rounding is not None:
        content["rounding"] = evaluation.rounding
    found: dict[str, Any] = to_json(content)
    return found


def write_reports(
    out: Path,
    evaluation: Evaluation,
    made_with: Mapping[str, Any],
    extra: Mapping[str, NDArray] | None = None,
) -> Evaluation:
    """Write ``tables.md``, ``tables.json``, ``tables.csv``, ``scores.npz`` and ``config.json``.

    `made_with` is the content of ``config.json``: ``config`` and ``versions``; `extra` are further
    arrays for ``scores.npz``. Returns the evaluation with its files. Raises `InputError` if the
    folder cannot be written to or something given has no JSON form; every file is complete before
    the first one is renamed.
    """
    assert evaluation.scores is not None
    scores = evaluation.scores
    files = write_together(
        out,
        {
            "tables.md": markdown(evaluation, made_with),
            "tables.json": json_text(record(evaluation, made_with)),
            "tables.csv": to_csv(evaluation.tables),
            "config.json": json_text(made_with),
            "scores.npz": lambda part: write_scores(part, scores, extra),
        },
    )
    return dataclasses.replace(evaluation, files=tuple(files))


def rounding_note(rounding: Rounding) -> str:
    """Return one paragraph on how much of the summed gradient is rounding."""
    return (
        "The gradient summed over an embedding's coordinates, |Σ g|, is a median "
        f"{rounding.single:.0e} of Σ |g| in float32 and {rounding.double:.0e} in float64; its "
        f"ranks in the two precisions agree by {short(rounding.agreement.mean)} "
        f"{interval(rounding.agreement.ci95)} (Spearman), those of the norm by "
        f"{short(rounding.norm_agreement.mean)} {interval(rounding.norm_agreement.ci95)}."
    )


def _accuracy_section(accuracy: Accuracy) -> Section:
    # Splits may have different numbers: each is a column.
    names = list(dict.fromkeys(name for figures in accuracy.values() for name in figures))
    table = Table.of(
        ["split", *(Column(name.replace("_", " "), _figure) for name in names)],
        [[split, *(figures.get(name) for name in names)] for split, figures in accuracy.items()],
    )
    attractors = any(re.fullmatch(r"test_\d", split) for split in accuracy)
    return Section("Accuracy of the model", _ATTRACTORS if attractors else "", table)


def _figure(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return UNDEFINED if math.isnan(value) else f"{value:.4f}"


def _correlations(tables: Tables, target: str, counted: bool) -> Section:
    theirs = {row: beside_paper(tables, target, row) for row in tables.correlations[target]}
    table = _layers(tables.correlations[target], counted, theirs)
    return Section(tables.reference.titles[target], "", table)


def _layers(
    rows: Mapping[str, Sequence[Cell]],
    counted: bool,
    theirs: Mapping[str, Sequence[tuple[float, float, float]] | None] | None = None,
) -> Table:
    """Return a table of layers: mean±std, interval, the paper's and the difference of each row."""
    lines: list[list[Any]] = []
    styles = []
    for row, cells in rows.items():
        number = [counts(cells, "n"), counts(cells, "nan")] if counted else []
        blank = [""] * len(number)
        lines.append(
            [row.replace("_", " "), *(mean_std(cell.mean, cell.std) for cell in cells), *number]
        )
        # Without the blank, six layers fit into 80 columns.
        intervals = [interval(cell.ci95).replace(" ", "") for cell in cells]
        lines.append(["  95 %", *intervals, *blank])
        styles += ["bold", "dim"]
        compared = (theirs or {}).get(row)
        if compared is not None:
            lines.append(["  paper", *(mean_std(mean, std) for mean, std, _ in compared), *blank])
            lines.append(["  differs", *(short(gap, sign=True) for *_, gap in compared), *blank])
            styles += ["cyan", "yellow"]
    layers = layer_names(len(next(iter(rows.values()))))
    return Table.of(["", *layers, *(["n", "NaN"] if counted else [])], lines, styles=styles)


def _about(tables: Tables, targets: Iterable[str]) -> str:
    """Return the text on a report's tables: what their numbers are, and how many were undefined."""
    undefined = [
        f"{row.replace('_', ' ')} {max(cell.nan for cell in cells)} ({TARGET_TITLES[target]})"
        for target in targets
        for row, cells in tables.correlations[target].items()
        if any(cell.nan for cell in cells)
    ]
    counted = "No sentence is undefined (NaN)."
    if undefined:
        counted = (
            "Undefined (NaN: one side is constant) and left out, in the layer with most: "
            f"{', '.join(undefined)}."
        )
    compared = (
        f"No comparison with the paper: its model has {LAYERS} layers, this one has "
        f"{tables.layers}."
    )
    if tables.layers == LAYERS:
        compared = f"Paper: {tables.reference.source} ({tables.reference.sentences} sentences)."
    return (
        f"Spearman's correlation per sentence, mean±standard deviation over {tables.sentences} "
        f"sentences, 95 % bootstrap interval of the mean. {counted} {compared}"
    )


def _claim_table(claims: Iterable[Claim]) -> Table:
    return Table.of(
        [
            *("", "claim", "target"),
            Column("verdict", text=True),
            Column("effect", lambda effect: short(effect, sign=True)),
            Column("95 % interval", interval),
            Column("p", probability),
            "n",
            Column("figures", text=True),
        ],
        [
            (
                claim.name,
                claim.statement,
                TARGET_TITLES.get(claim.target or "", ""),
                f"**{claim.verdict}**",
                claim.effect,
                claim.ci95,
                claim.p_holm,
                claim.n,
                claim.detail,
            )
            for claim in claims
        ],
        labels=3,
    )


def _print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print each claim once, under it a line and its figures for each target."""
    from rich.padding import Padding
    from rich.text import Text

    if not claims:
        return
    console.print(Text("\nClaims", "bold"))
    stated = ""
    for claim in claims:
        if stated != f"{claim.name} {claim.statement}":
            stated = f"{claim.name} {claim.statement}"
            console.print(Text(stated))
        line = Text(f"{TARGET_TITLES.get(claim.target or '', ''):<16}")
        line.append(f"{claim.verdict:<14}", _COLOURS.get(claim.verdict, "yellow"))
        line.append(
            f"{short(claim.effect, sign=True):>5} {interval(claim.ci95):<13} "
            f"p {probability(claim.p_holm)}  n {claim.n}"
        )
        console.print(Padding(line, (0, 0, 0, 3), expand=False))
        console.print(Padding(Text(claim.detail, "dim"), (0, 0, 0, 5), expand=False))
    console.print(Text(f"\n{NOTE}", "dim"))
