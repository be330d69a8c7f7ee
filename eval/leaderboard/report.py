"""Print the leaderboard, and write its files: Markdown, JSON, HTML, Parquet and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.summary import TITLES, Line, Summary
from jaxflow.eval.report import (
    Column,
    Section,
    Table,
    interval,
    json_text,
    layer_names,
    print_sections,
    probability,
    short,
    to_json,
    to_markdown,
    versions,
)
from jaxflow.files import Content, write_together
from jaxflow.models import Model

if TYPE_CHECKING:
    from rich.console import Console

#: The measures that a console shows.
SHORT = (
    "comprehensiveness_area",
    "sufficiency_area",
    "spearman_blank_out",
    "spearman_gradient",
    "subject_hit",
    "entropy",
)
_METHOD = Column("method", text=True, code=True)


def print_summary(console: Console, summary: Summary, most: int | None = None) -> None:
    """Print the best `most` methods, or all, best first."""
    shown = summary.finals[:most]
    notes = [f"… and {len(summary.finals) - len(shown)} more"] if shown != summary.finals else []
    notes += [f"the same on this model: {', '.join(group)}" for group in summary.equal_methods]
    notes += [f"left out: {name}, because {reason}" for name, reason in summary.left_out.items()]
    table = _methods(shown, SHORT, lambda line, name: line.cells[name].mean)
    print_sections(console, [Section("", _head(summary), table, "\n".join(notes))])


def as_markdown(summary: Summary, config: Mapping[str, Any]) -> str:
    """Write the board as a Markdown document: all methods, tests of the best, layers."""
    spread = " and seeds ± the deviation between seeds' means" if summary.seeds > 1 else ""
    sections = [
        Section(
            "",
            f"{_head(summary)}. Means over sentences{spread}. ↑ high is good, ↓ low is good. "
            "A method `EDGE/AGGREGATOR` is of the top layer.",
            _methods(summary.finals, tuple(MEASURES), _mean),
        ),
        Section(
            f"95 % intervals of {TITLES[summary.key]}, and who differs from whom",
            "Signed-rank tests (Wilcoxon) between all methods, Holm-corrected; the p-value is that "
            "of the difference from the best.",
            _tests(summary),
        ),
    ]
    if any(line.layer is not None for line in summary.lines):  # not where one layer is scored
        title = "By layer: Spearman's correlation with blank-out, and with the gradient's norm"
        sections.append(Section(title, "", _layers(summary)))
    if summary.left_out:
        lines = [f"- `{name}`: {reason}" for name, reason in summary.left_out.items()]
        sections.append(Section("Left out", "\n".join(lines)))
    if summary.equal_methods:
        groups = [", ".join(f"`{name}`" for name in group) for group in summary.equal_methods]
        about = "These give the same scores to every token of every sentence on this model."
        lines = [about, "", *(f"- {group}" for group in groups)]
        sections.append(Section("One method under several names", "\n".join(lines)))
    sources = {line.method.source: None for line in summary.finals if line.method.source}
    sections.append(Section("Sources", "\n".join(f"- {source}" for source in sources)))
    return to_markdown("Leaderboard", sections, config)


def record(summary: Summary, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``leaderboard.json``.

    ``{"sentences", "seeds", "sorted_by", "methods": [...], "tests": {measure: {"methods", "ranks",
    "p_holm", "sentences"}}, "left_out", "alike", "config"}``; a method is ``{"name", "title",
    "family", "source", "layer" (from 1, null without), "final", "milliseconds", "measures":
    {measure: {"mean", "std", "ci95", "n", "nan", "spread"}}}``.
    """
    methods = [
        {
            **to_json(line.method),
            "layer": None if line.layer is None else line.layer + 1,
            "final": line.final,
            "milliseconds": to_json(line.milliseconds),
            "measures": {
                name: {**to_json(cell), "spread": to_json(line.spread[name])}
                for name, cell in line.cells.items()
            },
        }
        for line in summary.lines
    ]
    tests = {
        name: {
            "methods": [line.method.name for line in summary.finals],
            "ranks": to_json(found.ranks),
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
        "left_out": to_json(summary.left_out),
        "alike": to_json(summary.equal_methods),
        "config": to_json(config),
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


def write_board(
    out: Path,
    summary: Summary,
    boards: Sequence[Board],
    names: Sequence[str],
    model: Model,
    config: Mapping[str, Any],
    *,
    shown: int = 30,
) -> list[Path]:
    """Write a board to a folder, atomically, and return the files.

    They are ``leaderboard.md``, ``.json``, ``.parquet``, ``.html``, ``critical-difference.svg``,
    and ``layers.svg`` of a model with more than one layer. `names` are those of the boards' runs,
    `model` is the first run's, and the page shows `shown` sentences. Raises `InputError` if the
    folder cannot be written.
    """
    from jaxflow.eval.leaderboard.page import as_leaderboard_page
    from jaxflow.eval.plots.leaderboard import draw_critical_difference, draw_layers
    from jaxflow.eval.plots.style import save

    first = boards[0]
    sentences = list(range(min(shown, len(first.cases))))
    tokens = [first.cases.texts(model, row) for row in sentences]
    made = {**config, "versions": versions()}
    page = as_leaderboard_page(
        summary,
        first,
        tokens,
        first.cases.names(model),
        sentences,
        probabilities=first.probability[sentences].tolist(),
    )
    tested = (
        summary.key if summary.key in summary.significance else next(iter(summary.significance))
    )
    figure = draw_critical_difference(
        summary.significance[tested],
        [line.method.name for line in summary.finals],
        title=f"Mean rank by {TITLES[tested]}",
    )
    files: dict[str, Content] = {
        "leaderboard.md": as_markdown(summary, made),
        "leaderboard.json": json_text(record(summary, made), indent=None),
        "leaderboard.html": page,
        "leaderboard.parquet": partial(write_parquet, boards=boards, seeds=names),
        "critical-difference.svg": partial(save, figure, form="svg"),
    }
    if max(layer or 0 for _, layer in first.rows):
        files["layers.svg"] = partial(save, draw_layers(summary), form="svg")
    return write_together(out, files)


def _head(summary: Summary) -> str:
    seeds = f", {summary.seeds} training seeds" if summary.seeds > 1 else ""
    arrow = "highest" if MEASURES[summary.key] else "lowest"
    return f"{summary.sentences:,} sentences{seeds}; sorted by {TITLES[summary.key]}, {arrow} first"


def _methods(lines: Sequence[Line], measures: Sequence[str], value: Any) -> Table:
    """Return the table of methods, best first; `value(line, measure)` is a cell."""
    head: list[str | Column] = [
        Column(""),
        _METHOD,
        *(TITLES[name] for name in measures),
        Column("ms/1,000", _cost),
    ]
    rows = [
        [place, line.method.name, *(value(line, name) for name in measures), line.milliseconds]
        for place, line in enumerate(lines, start=1)
    ]
    return Table.of(head, rows, labels=2)


def _cost(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds > 0 else "–"


def _mean(line: Line, measure: str) -> str:
    text = short(line.cells[measure].mean)
    spread = line.spread[measure]
    return text if math.isnan(spread) or text == "n/a" else f"{text}±{short(spread)}"


def _tests(summary: Summary) -> Table:
    found = summary.significance.get(summary.key)
    rows = []
    for place, line in enumerate(summary.finals):
        cell = line.cells[summary.key]
        rank, p = ("", math.nan) if found is None else (found.ranks[place], found.p_holm[0, place])
        rank = rank if found is None else f"{rank:.1f}"
        p_value = "–" if place == 0 else probability(float(p))
        rows.append(
            [line.method.name, cell.mean, interval(cell.ci95), rank, p_value, cell.n, cell.nan]
        )
    return Table.of([_METHOD, "mean", "95 % interval", "mean rank", "p", "n", "NaN"], rows)


def _layers(summary: Summary) -> Table:
    by = {(line.method.name, line.layer): line for line in summary.lines if line.layer is not None}
    count = 1 + max((layer for _, layer in by), default=0)
    measures = {"ρb": "spearman_blank_out", "ρg": "spearman_gradient"}
    head = [f"{short_name} {layer}" for short_name in measures for layer in layer_names(count)]
    places = [(measure, layer) for measure in measures.values() for layer in range(count)]
    rows = [
        [name, *(by[name, layer].cells[measure].mean for measure, layer in places)]
        for name in dict.fromkeys(name for name, _ in by)
    ]
    return Table.of([_METHOD, *head], rows)
