"""The leaderboard's table on a page: sorted by a click on a header, filtered by family and name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.explain.shade import visible
from jaxflow.eval.leaderboard.board import MEASURES, NEUTRAL
from jaxflow.eval.leaderboard.summary import TITLES, Line, Summary
from jaxflow.eval.report.text import UNDEFINED

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, TableColumn, UIElement

__all__ = ["EVERYONE", "line_columns", "lines_table"]

EVERYONE = "all"  # stands for every family
TALLEST, HEAD = 520, 64  # pixels: of the table, and of its header with the scroll bar

_STYLE = """
:host { font: 13px/1.3 system-ui, sans-serif; --border: 1px solid #1b273322; }
.slick-header-columns .slick-header-column.ui-state-default { height: 34px; white-space: normal;
  line-height: 16px; font-weight: 600; color: #44566a; background: #fff; cursor: pointer; }
.slick-header-column .slick-column-name { margin-bottom: 0; float: none; display: inline; }
.slick-header-column .slick-sort-indicator { float: none; margin: 0 0 0 3px;
  vertical-align: middle; }
.slick-header-column-sorted.ui-state-default { font-style: normal; color: #0b3d66; }
.slick-row { cursor: pointer; }
.slick-row .slick-cell { line-height: 15px; padding: 2px 6px; cursor: pointer; border-right: 0;
  border-bottom: 1px solid #1b273311; }
.slick-row.odd { background: #f8fafc; }
.slick-row.selected, .slick-row .slick-cell.selected { background: #d5e6f5; }
.slick-row .slick-cell.active { border-color: transparent transparent #1b273311; }
.number { display: block; text-align: right; font-variant-numeric: tabular-nums; }
.number small { display: block; font-size: 10px; line-height: 11px; color: #6b7b8c;
  font-weight: 400; }
.best { font-weight: 700; }
"""

_FILTER = """
const wanted = text.value_input.trim().toLowerCase();
const {family, name} = source.data;
keep.booleans = Array.from(name, (one, row) =>
  (families.value === everyone || family[row] === families.value)
  && one.toLowerCase().includes(wanted));
"""


def line_columns(summary: Summary) -> dict[str, Any]:
    """Return one row for each line that stands for its method, best first.

    Columns ``place`` (from 1), ``name``, ``family``, ``about``, ``rank`` (mean rank by the
    measure that sorts, where it is tested), ``milliseconds``, and each measure. These are numbers
    to sort by, in which an undefined one counts as the worst; ``X_said`` is the text of X, and
    for a measure ``X_spread`` the spread between seeds, ``X_more`` its interval in words, and
    ``X_class`` says whether it is the best.
    """
    finals = summary.finals
    columns: dict[str, Any] = {
        "place": np.arange(1, len(finals) + 1, dtype=np.int32),
        "name": [visible(line.method.name) for line in finals],
        "family": [line.method.family for line in finals],
        "about": [_about(line) for line in finals],
    }
    significance = summary.significance.get(summary.key)
    if significance is not None:
        columns |= _sortable("rank", significance.ranks.tolist(), "z.1f", high=False)
    columns |= _sortable(
        "milliseconds", [line.milliseconds for line in finals], "z,.0f", high=False
    )
    for name, high in MEASURES.items():
        means = [line.cells[name].mean for line in finals]
        columns |= _sortable(name, means, "z.3f", high=high)
        spreads = [line.spread[name] for line in finals]
        columns[f"{name}_spread"] = ["" if math.isnan(s) else f"±{s:.3f}" for s in spreads]
        columns[f"{name}_more"] = [_more(line, name) for line in finals]
        said = columns[f"{name}_said"]
        sorting = columns[name]
        best = said[int(np.argmax(sorting) if high else np.argmin(sorting))]
        # Entropy is neither good nor bad.
        judged = name not in NEUTRAL and best != UNDEFINED
        columns[f"{name}_class"] = ["best" if judged and s == best else "" for s in said]
    return columns


def _sortable(name: str, values: Sequence[float], form: str, *, high: bool) -> dict[str, Any]:
    undefined = -math.inf if high else math.inf
    return {
        name: np.array([undefined if math.isnan(value) else value for value in values]),
        f"{name}_said": [UNDEFINED if math.isnan(v) else format(v, form) for v in values],
    }


def _about(line: Line) -> str:
    parts = [line.method.title, line.method.source]
    return visible(". ".join(part for part in parts if part))


def _more(line: Line, measure: str) -> str:
    cell, spread = line.cells[measure], line.spread[measure]
    if not cell.n:
        return "defined on no sentence"
    low, high = cell.ci95
    words = f"{cell.mean:.4f}, 95 % interval {low:.4f} to {high:.4f}, {cell.n:,} sentences"
    if cell.nan:
        words += f", not defined on {cell.nan:,}"
    return words if math.isnan(spread) else f"{words}; spread between seeds {spread:.4f}"


def lines_table(source: ColumnDataSource, columns: Mapping[str, Any]) -> list[UIElement]:
    """Draw the filters and the table of a source that holds `line_columns`."""
    from bokeh.layouts import row
    from bokeh.models import (
        BooleanFilter,
        CDSView,
        CustomJS,
        DataTable,
        InlineStyleSheet,
        Select,
        TextInput,
    )

    keep = BooleanFilter()
    families = Select(
        title="Family",
        value=EVERYONE,
        options=[EVERYONE, *dict.fromkeys(columns["family"])],
        name="family",
        width=160,
    )
    text = TextInput(title="Method contains", name="contains", width=240)
    spread = any(any(columns[f"{name}_spread"]) for name in MEASURES)
    height = 36 if spread else 22
    table = DataTable(
        source=source,
        view=CDSView(filter=keep),
        columns=_table_columns(columns),
        index_position=None,
        sortable=True,
        reorderable=False,
        selectable=True,
        row_height=height,
        frozen_columns=2,
        autosize_mode="none",
        height=min(TALLEST, HEAD + height * len(columns["name"])),
        sizing_mode="stretch_width",
        stylesheets=[InlineStyleSheet(css=_STYLE)],
        name="table",
    )
    change = CustomJS(
        args={
            "source": source,
            "keep": keep,
            "families": families,
            "text": text,
            "everyone": EVERYONE,
        },
        code=_FILTER,
    )
    families.js_on_change("value", change)
    text.js_on_change("value_input", change)
    return [row(families, text), table]


def _table_columns(columns: Mapping[str, Any]) -> list[TableColumn]:
    # Bokeh compiles the templates; <%- escapes what it writes.
    text = '<span title="<%- about %>"><%- value %></span>'
    number = '<span class="number"><%- X_said %></span>'
    measure = (
        '<span class="number <%- X_class %>" title="<%- X_more %>"><%- X_said %>'
        "<small><%- X_spread %></small></span>"
    )
    found = [
        _column("place", "", '<span class="number"><%- value %></span>', 38),
        _column("name", "method", text, 250),
        _column("family", "family", "<%- value %>", 74),
    ]
    for name, high in MEASURES.items():
        found.append(_column(name, TITLES[name], measure.replace("X", name), 82, high))
    if "rank" in columns:
        found.append(_column("rank", "mean rank ↓", number.replace("X", "rank"), 74))
    title = "ms / 1,000 sent."
    found.append(_column("milliseconds", title, number.replace("X", "milliseconds"), 84))
    return found


def _column(field: str, title: str, template: str, width: int, high: bool = False) -> TableColumn:
    from bokeh.models import HTMLTemplateFormatter, TableColumn

    return TableColumn(
        field=field,
        title=title,
        width=width,
        formatter=HTMLTemplateFormatter(template=template),
        # The first click puts the best on top.
        default_sort="descending" if high else "ascending",
    )
