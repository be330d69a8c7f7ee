"""The leaderboard on a terminal, as Markdown and JSON, and every sentence's values as Parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.summary import TITLES, Line, Summary
from jaxflow.eval.report.text import interval, probability, short, to_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SHORT", "as_markdown", "print_summary", "record", "write_parquet"]

#: The measures that fit on a terminal.
SHORT = (
    "comprehensiveness_area",
    "sufficiency_area",
    "spearman_blank_out",
    "spearman_gradient",
    "subject_hit",
    "entropy",
)


def _cost(line: Line) -> str:
    if math.isnan(line.milliseconds) or line.milliseconds <= 0:
        return "–"
    return f"{line.milliseconds:,.0f}"


def _head(summary: Summary) -> str:
    seeds = f", {summary.seeds} training seeds" if summary.seeds > 1 else ""
    arrow = "highest" if MEASURES[summary.key] else "lowest"
    return f"{summary.sentences:,} sentences{seeds}; sorted by {TITLES[summary.key]}, {arrow} first"


def print_summary(console: Console, summary: Summary, most: int | None = None) -> None:
    """Print the methods, best first.

    Parameters
    ----------
    console
        A rich console.
    summary
        The board in numbers.
    most
        How many methods; None is all.
    """
    from rich.table import Table
    from rich.text import Text

    finals = summary.finals
    shown = finals[:most]
    columns = {TITLES[name]: [short(line.cells[name].mean) for line in shown] for name in SHORT}
    columns["ms/1,000"] = [_cost(line) for line in shown]
    room = console.width - 4 - max((len(line.method.name) for line in shown), default=0)
    fitting = _fitting(columns, room)
    console.print(Text(_head(summary), style="italic"))
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("method", no_wrap=True)
    for title in fitting:
        table.add_column(title, justify="right", no_wrap=True)
    for place, line in enumerate(shown):
        cells = [columns[title][place] for title in fitting]
        table.add_row(str(place + 1), line.method.name, *cells)
    console.print(table)
    hidden = [title for title in columns if title not in fitting]
    if hidden:
        console.print(f"… {', '.join(hidden)} on a wider terminal", style="dim")
    if most is not None and len(finals) > most:
        console.print(f"… and {len(finals) - most} more", style="dim")
    for group in summary.equal_methods:
        console.print(Text(f"the same on this model: {', '.join(group)}", style="dim"))
    for name, reason in summary.left_out.items():
        console.print(Text(f"left out: {name}, because {reason}", style="dim"), soft_wrap=True)


def _fitting(columns: Mapping[str, Sequence[str]], room: int) -> list[str]:
    """Return the first columns that fit, two characters apart; one in any case."""
    found: list[str] = []
    for title, cells in columns.items():
        room -= 2 + max(len(title), *(len(cell) for cell in cells), 0)
        if room < 0 and found:
            break
        found.append(title)
    return found


def as_markdown(summary: Summary, config: Mapping[str, Any]) -> str:
    """Write the board as a Markdown document: all methods, tests of the best, layers."""
    finals = summary.finals
    rows = [
        [
            str(place),
            f"`{line.method.name}`",
            *(_mean(line, name) for name in MEASURES),
            _cost(line),
        ]
        for place, line in enumerate(finals, start=1)
    ]
    parts = [
        "# Leaderboard",
        f"{_head(summary)}. Means over sentences"
        + (" and seeds ± the deviation between seeds' means." if summary.seeds > 1 else ".")
        + " ↑ high is good, ↓ low is good. A method `EDGE/AGGREGATOR` is of the top layer.",
        _grid(["", "method", *(TITLES[name] for name in MEASURES), "ms / 1,000"], rows),
        f"## 95 % intervals of {TITLES[summary.key]}, and who differs from whom",
        "Paired permutation tests between all methods, Holm-corrected; the p-value is that of the "
        "difference from the best.",
        _tests(summary),
        "## By layer: Spearman's correlation with blank-out, and with the gradient's norm",
        _layers(summary),
    ]
    if summary.left_out:
        parts += [
            "## Left out",
            "\n".join(f"- `{name}`: {reason}" for name, reason in summary.left_out.items()),
        ]
    if summary.equal_methods:
        parts += [
            "## One method under several names",
            "These say the same of every token of every sentence on this model.",
            "\n".join(
                f"- {', '.join(f'`{name}`' for name in group)}" for group in summary.equal_methods
            ),
        ]
    sources = {line.method.source: None for line in finals if line.method.source}
    parts += ["## Sources", "\n".join(f"- {source}" for source in sources)]
    made = "\n".join(f"- {name}: {value}" for name, value in config.items())
    parts += ["## Made with", made]
    return "\n\n".join(parts) + "\n"


def _mean(line: Line, measure: str) -> str:
    text = short(line.cells[measure].mean)
    spread = line.spread[measure]
    return text if math.isnan(spread) or text == "n/a" else f"{text}±{short(spread)}"


def _tests(summary: Summary) -> str:
    finals, found = summary.finals, summary.significance.get(summary.key)
    rows = []
    for place, line in enumerate(finals):
        cell = line.cells[summary.key]
        p = math.nan if found is None else float(found.p_holm[0, place])
        rank = "" if found is None else f"{found.ranks[place]:.1f}"
        rows.append(
            [
                f"`{line.method.name}`",
                short(cell.mean),
                interval(cell.ci95),
                rank,
                "–" if place == 0 else probability(p),
                str(cell.n),
                str(cell.nan),
            ]
        )
    return _grid(["method", "mean", "95 % interval", "mean rank", "p", "n", "NaN"], rows)


def _layers(summary: Summary) -> str:
    layered = [line for line in summary.lines if line.layer is not None]
    count = 1 + max((line.layer or 0 for line in layered), default=0)
    names = list(dict.fromkeys(line.method.name for line in layered))
    by = {(line.method.name, line.layer): line for line in layered}
    rows = []
    for name in names:
        row = [f"`{name}`"]
        for measure in ("spearman_blank_out", "spearman_gradient"):
            row += [short(by[name, layer].cells[measure].mean) for layer in range(count)]
        rows.append(row)
    layers = [f"L{layer + 1}" for layer in range(count)]
    head = ["method", *(f"ρb {name}" for name in layers), *(f"ρg {name}" for name in layers)]
    return _grid(head, rows)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(summary: Summary, config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the board into what JSON has.

    Returns
    -------
    dict
        ``{"sentences", "seeds", "sorted_by", "methods": [...], "tests": {measure: {"methods",
        "ranks", "p_holm", "sentences"}}, "left_out", "alike", "config"}``; a method is ``{"name",
        "title", "family", "source", "layer" (from 1, null without), "final", "milliseconds",
        "measures": {measure: {"mean", "std", "ci95", "n", "nan", "spread"}}}``.
    """
    methods = []
    for line in summary.lines:
        measures = {
            name: {**to_json(cell), "spread": to_json(line.spread[name])}
            for name, cell in line.cells.items()
        }
        methods.append(
            {
                "name": line.method.name,
                "title": line.method.title,
                "family": line.method.family,
                "source": line.method.source,
                "layer": None if line.layer is None else line.layer + 1,
                "final": line.final,
                "milliseconds": to_json(line.milliseconds),
                "measures": measures,
            }
        )
    finals = [line.method.name for line in summary.finals]
    tests = {
        name: {
            "methods": finals,
            "ranks": to_json(found.ranks),
            # Four digits say all that so many permutations can.
            "p_holm": to_json(np.round(found.p_holm, 4)),
            "sentences": found.sentences,
        }
        for name, found in summary.significance.items()
    }
    return {
        "sentences": summary.sentences,
        "seeds": summary.seeds,
        "sorted_by": summary.key,
        "methods": methods,
        "tests": tests,
        "left_out": dict(summary.left_out),
        "alike": [list(group) for group in summary.equal_methods],
        "config": to_json(dict(config)),
    }


def write_parquet(path: Path, boards: Sequence[Board], seeds: Sequence[str]) -> None:
    """Write every sentence's values: one row a sentence, method, layer and run.

    Columns: ``run``, ``method``, ``layer`` (from 1, null without), ``sentence``, and every measure
    as float32, null where it is not defined.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for board, seed in zip(boards, seeds, strict=True):
        count = len(board.cases)
        names = [name for name, _ in board.rows]
        layers = [None if layer is None else layer + 1 for _, layer in board.rows]
        place = np.repeat(np.arange(len(names)), count)
        columns = {
            "run": pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(len(place), np.int32)), pa.array([seed])
            ),
            "method": pa.DictionaryArray.from_arrays(
                pa.array(place.astype(np.int32)), pa.array(names)
            ),
            "layer": pa.array(layers, pa.int16()).take(pa.array(place)),
            "sentence": pa.array(np.tile(np.arange(count, dtype=np.int32), len(names))),
        }
        for name, values in board.measures.items():
            columns[name] = pa.array(values.ravel(), pa.float32(), from_pandas=True)
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    pq.write_table(whole, path, compression="zstd")
