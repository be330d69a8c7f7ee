"""The decoders study as text: on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxflow.eval.decoders import AFTER, MEASURES, NORMALISED, PLACE, VARIANTS
from jaxflow.eval.decoders_tables import BIASES, GAINS, DecoderTables
from jaxflow.eval.leaderboard.significance import PERMUTATIONS
from jaxflow.eval.report.text import (
    UNDEFINED,
    accuracy_lines,
    interval,
    json_text,
    layer_names,
    probability,
    short,
)
from jaxflow.eval.stats import Cell

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ABOUT", "print_decoders", "to_decoders_markdown"]

ABOUT = (
    "Rows are those of the last word, off which the class is read. *place* is what uniform causal "
    "attention gives each token, *normalised* the method's scores divided by it. Raw attention of "
    "one layer has the same field for all tokens, so that normalising changes nothing of it here. "
    "Means over the sentences with 95 % bootstrap intervals; sentences on which a measure is "
    "undefined are left out."
)
TESTED = (
    "Differences are normalised minus not, sentence by sentence, with 95 % bootstrap intervals; "
    f"p-values are of paired permutation tests (up to {PERMUTATIONS:,} random choices of signs), "
    "with Holm's correction over all tests of the split. "
    "A bias is *gone* where 0 lies in the interval of what is left, *same* where p is not below "
    ".05, *turned* where it points the other way now."
)
_RELATIVE = "Token 0's score over what its place explains (1 is as much)"
_BANDS = "By the sentence's length in tokens, top layer"


def to_decoders_markdown(
    found: Mapping[str, DecoderTables],
    accuracy: Mapping[str, Mapping[str, float | int]],
    made_with: Mapping[str, Any],
) -> str:
    """Return all tables of all splits as a Markdown document.

    Parameters
    ----------
    found
        By split.
    accuracy
        Of the model, split -> ``accuracy`` and ``n``.
    made_with
        Configuration and versions.
    """
    shown = {name: score["accuracy"] for name, score in accuracy.items()}
    blocks = [
        "# A decoder's early tokens, before and after normalisation by the receptive field",
        ABOUT,
        TESTED,
        "\n".join(f"- {line}" for line in accuracy_lines(shown)),
    ]
    for split, tables in found.items():
        layers = layer_names(tables.layers)
        blocks += [
            f"## Split {split}: {tables.sentences} sentences",
            "### What became of it",
            _grid(["", "", "over", *layers], _verdicts(tables)),
            f"### {_RELATIVE}",
            _grid(
                ["", *layers],
                [[name, *map(_cell, tables.relative[name])] for name in NORMALISED],
            ),
        ]
        for variant, measures in tables.measures.items():
            for measure, rows in measures.items():
                blocks += [
                    f"### {_title(measure, variant)}",
                    _grid(["", *layers], [[f"**{row}**", *map(_cell, rows[row])] for row in rows])
                    if measure not in tables.changes[variant]
                    else _grid(["", *layers], _with_changes(tables, variant, measure)),
                ]
        blocks += [f"### {_BANDS}", *_band_blocks(tables)]
    blocks += ["## Made with", f"```json\n{json_text(made_with)}```"]
    return "\n\n".join(blocks) + "\n"


def print_decoders(
    console: Console,
    found: Mapping[str, DecoderTables],
    accuracy: Mapping[str, Mapping[str, float | int]],
) -> None:
    """Print the top layer's figures and what became of the bias at every layer."""
    from rich.text import Text

    shown = {name: score["accuracy"] for name, score in accuracy.items()}
    for line in accuracy_lines(shown):
        console.print(Text(line))
    for split, tables in found.items():
        console.print(Text(f"\nSplit {split}: {tables.sentences} sentences", "bold"))
        console.print(Text(f"Even share of all tokens {short(tables.even)}"))
        for variant, measures in tables.measures.items():
            console.print(Text(f"\nTop layer, {VARIANTS[variant]}", "bold"))
            rows = list(next(iter(measures.values())))
            head = ["", *(name.replace("_", " ") for name in measures)]
            lines = [
                [row, *(short(cells[row][-1].mean) for cells in measures.values())] for row in rows
            ]
            _print_grid(console, head, lines)
        console.print(Text("\nWhat became of it", "bold"))
        _print_grid(console, ["", "", "over", *layer_names(tables.layers)], _verdicts(tables))
    console.print(Text(f"\n{ABOUT} {TESTED}".replace("*", ""), "dim"))


def _verdicts(tables: DecoderTables) -> list[list[str]]:
    return [
        [
            measure.replace("_", " "),
            method,
            variant,
            *(
                f"{change.verdict} ({short(change.difference, sign=True)})"
                if change.n
                else change.verdict
                for change in tables.changes[variant][measure][method]
            ),
        ]
        for measure in (*BIASES, *GAINS)
        for method in NORMALISED
        for variant in tables.changes
        if measure in tables.changes[variant]
    ]


def _title(measure: str, variant: str) -> str:
    said = MEASURES[measure]
    return f"{said[0].upper()}{said[1:]} ({VARIANTS[variant]})"


def _with_changes(tables: DecoderTables, variant: str, measure: str) -> list[list[str]]:
    rows = tables.measures[variant][measure]
    lines = []
    for method in NORMALISED:
        for name in (method, PLACE.format(method), AFTER.format(method)):
            lines.append([f"**{name}**", *map(_cell, rows[name])])
        changes = tables.changes[variant][measure][method]
        texts = (
            f"{short(change.difference, sign=True)} {interval(change.ci95)} "
            f"p {probability(change.p_holm)}"
            if change.n
            else UNDEFINED
            for change in changes
        )
        lines.append([f"*{method}, difference*", *texts])
    lines.append(["**raw**", *map(_cell, rows["raw"])])
    lines.append(
        [
            "NaN",
            *(str(max(row[layer].nan for row in rows.values())) for layer in range(tables.layers)),
        ]
    )
    return lines


def _band_blocks(tables: DecoderTables) -> list[str]:
    labels = list(tables.bands)
    head = ["", *labels]
    bands = list(tables.bands.values())
    blocks = [
        _grid(
            head,
            [
                ["sentences", *(str(band.sentences) for band in bands)],
                ["even share", *(short(band.even) for band in bands)],
            ],
        )
    ]
    for variant, measures in bands[0].measures.items() if bands else ():
        for measure, rows in measures.items():
            lines = [
                [f"**{row}**", *(_cell(band.measures[variant][measure][row]) for band in bands)]
                for row in rows
            ]
            blocks += [f"{_title(measure, variant)}:", _grid(head, lines)]
    return blocks


def _cell(cell: Cell) -> str:
    return f"{short(cell.mean)} {interval(cell.ci95)}" if cell.n else UNDEFINED


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _print_grid(console: Console, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place and name else "left", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
