"""The results on a terminal, and the files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.claims import DOES_NOT_HOLD, HOLDS, NOTE, Claim
from jaxflow.eval.paper.markdown import comparison_note, to_markdown
from jaxflow.eval.paper.scores import Scores, write_scores
from jaxflow.eval.paper.tables import Tables, beside_paper, record, to_csv
from jaxflow.eval.report.text import (
    accuracy_lines,
    interval,
    json_text,
    layer_names,
    mean_std,
    probability,
    short,
)
from jaxflow.eval.stats import Cell
from jaxflow.files import write_together

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_claims", "print_note", "print_report", "print_tables", "write_reports"]

# A line of a printed table: its label, one text per layer, a rich style.
_Line = tuple[str, list[str], str]
_COLOURS = {HOLDS: "green", DOES_NOT_HOLD: "red"}


def print_report(
    console: Console, tables: Tables, claims: Sequence[Claim] = (), *, accuracy: Any = None
) -> None:
    """Print both tables beside the paper's, the rows the paper lacks, and the claims.

    Parameters
    ----------
    console
        A rich console on standard output. Tables wider than it are printed in blocks of layers,
        so that no number is cut; colours appear only where the console has them.
    tables, claims
        What was found.
    accuracy
        Of the model: a number, or a mapping with the parts.
    """
    for line in accuracy_lines(accuracy):
        _say(console, line)
    print_tables(console, tables)
    _say(console, "\nSaturated share of the pairs ([CLS], token)", "bold")
    _print_table(console, _own("saturated", tables.saturation))
    _say(console, "\nEntropy of the [CLS] row, as a share of its maximum", "bold")
    _print_table(
        console, [line for row in tables.entropy for line in _own(row, tables.entropy[row])]
    )
    print_note(console, tables)
    print_claims(console, claims)


def print_tables(console: Console, tables: Tables, targets: Sequence[str] | None = None) -> None:
    """Print the correlations with each target, or with those of `targets`."""
    for target in tables.correlations:
        if targets is None or target in targets:
            _say(console, f"\n{tables.reference.titles[target]}", "bold")
            _print_table(console, _compared(tables, target))


def print_note(console: Console, tables: Tables, targets: Sequence[str] | None = None) -> None:
    """Print what the numbers of the tables are, and how many were undefined."""
    _say(
        console,
        f"\nMean±standard deviation over {tables.sentences} sentences, 95 % bootstrap interval "
        f"of the mean. {_left_out(tables, targets)} {comparison_note(tables)}",
        "dim",
    )


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print the verdicts on the claims; nothing where none were tested."""
    if claims:
        _say(console, "\nClaims", "bold")
        _print_claims(console, claims)
        _say(console, f"\n{NOTE}", "dim")


def write_reports(
    out_dir: str | PathLike[str],
    *,
    scores: Scores,
    tables: Tables,
    claims: Sequence[Claim] = (),
    accuracy: Any = None,
    accuracy_by_split: Mapping[str, Mapping[str, float | int]] | None = None,
    samples: int | None = None,
    config: Any = None,
    versions: Any = None,
    extra: Mapping[str, NDArray] | None = None,
) -> list[Path]:
    """Write ``tables.md``, ``tables.json``, ``tables.csv``, ``scores.npz`` and ``config.json``.

    Parameters
    ----------
    out_dir
        Folder, made if it is not there.
    scores, tables, claims
        What was found.
    accuracy, accuracy_by_split, samples, config, versions
        As for `jaxflow.eval.paper.tables.record`; ``config.json`` holds `config` and `versions`.
    extra
        Further arrays for ``scores.npz``.

    Returns
    -------
    list of Path
        The five files.

    Raises
    ------
    InputError
        If the folder cannot be written to or something given has no JSON form. Every file is
        complete before the first one takes its place.
    """
    given: dict[str, Any] = {
        "claims": claims,
        "accuracy": accuracy,
        "accuracy_by_split": accuracy_by_split,
        "samples": samples,
        "config": config,
        "versions": versions,
    }
    texts = {
        "tables.md": to_markdown(tables, **given),
        "tables.json": json_text(record(tables, **given)),
        "tables.csv": to_csv(tables),
        "config.json": json_text({"config": config, "versions": versions}),
    }

    def write_text(name: str) -> Any:
        return lambda part: part.write_text(texts[name], encoding="utf-8")

    writers = {name: write_text(name) for name in texts}
    writers["scores.npz"] = lambda part: write_scores(part, scores, extra)
    return write_together(Path(out_dir), writers)


def _compared(tables: Tables, target: str) -> list[_Line]:
    lines: list[_Line] = []
    for row, cells in tables.correlations[target].items():
        lines += _own(paper.ROW_TITLES[row], cells)
        theirs = beside_paper(tables, target, row)
        if theirs is not None:
            lines.append(("  paper", [mean_std(mean, std) for mean, std, _ in theirs], "cyan"))
            lines.append(("  differs", [short(gap, sign=True) for _, _, gap in theirs], "yellow"))
    return lines


def _own(name: str, cells: Sequence[Cell]) -> list[_Line]:
    # Without the blank, six layers fit into 80 columns.
    intervals = [interval(cell.ci95).replace(" ", "") for cell in cells]
    return [
        (name, [mean_std(cell.mean, cell.std) for cell in cells], "bold"),
        ("  95 %", intervals, "dim"),
    ]


def _left_out(tables: Tables, targets: Sequence[str] | None) -> str:
    counted = [
        f"{paper.ROW_TITLES[row]} {max(cell.nan for cell in cells)} ({paper.TARGET_TITLES[target]})"
        for target, rows in tables.correlations.items()
        for row, cells in rows.items()
        if any(cell.nan for cell in cells) and (targets is None or target in targets)
    ]
    if not counted:
        return "No sentence is undefined (NaN)."
    return f"Undefined (NaN) and left out, in the layer with most: {', '.join(counted)}."


def _print_table(console: Console, lines: list[_Line]) -> None:
    from rich.table import Table
    from rich.text import Text

    layers = len(lines[0][1])
    label = max(len(name) for name, _, _ in lines)
    widths = [max(len(texts[layer]) for _, texts, _ in lines) + 1 for layer in range(layers)]
    start = 0
    while start < layers:
        stop = start + 1
        while stop < layers and label + sum(widths[start : stop + 1]) <= console.width:
            stop += 1
        shown, start = slice(start, stop), stop
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
        table.add_column("", no_wrap=True, min_width=label)
        for name, width in zip(layer_names(layers)[shown], widths[shown], strict=True):
            # Folding is the last resort on a console of a few columns: it shows every digit.
            table.add_column(name, justify="right", overflow="fold", min_width=width - 1)
        for name, texts, style in lines:
            table.add_row(Text(name), *map(Text, texts[shown]), style=style)
        console.print(table)


def _print_claims(console: Console, claims: Sequence[Claim]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    stated = None
    for claim in claims:
        if (claim.name, claim.statement) != stated:
            stated = (claim.name, claim.statement)
            _say(console, f"{claim.name} {claim.statement}")
        target = "" if claim.target is None else paper.TARGET_TITLES[claim.target]
        line = Text(f"{target:<16}") + Text(
            f"{claim.verdict:<14}", _COLOURS.get(claim.verdict, "yellow")
        )
        line.append(
            f"{short(claim.effect, sign=True):>5} {interval(claim.ci95):<13} "
            f"p {probability(claim.p_holm)}  n {claim.n}"
        )
        console.print(Padding(line, (0, 0, 0, 3), expand=False))
        console.print(Padding(Text(claim.detail, "dim"), (0, 0, 0, 5), expand=False))


def _say(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    # As Text: a bracket in it is a bracket, not markup, and numbers keep the line's colour.
    console.print(Text(text, style))
