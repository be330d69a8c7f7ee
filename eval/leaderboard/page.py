"""Write the leaderboard as one interactive HTML page that needs no network and no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES, NEUTRAL, Board
from jaxflow.eval.leaderboard.cases import Cases
from jaxflow.eval.leaderboard.summary import TITLES, Line, Summary
from jaxflow.eval.plots.style import CONSTANT, NOTE, ink, is_constant, relative, shade, visible
from jaxflow.eval.report import UNDEFINED
from jaxflow.html.document import Section, View, write_views

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, CustomJS, TableColumn, UIElement


EVERYONE = "all"  # the choice of every family
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
    """Return one row for each method's main line, best first.

    Numbers to sort by, in which an undefined one counts as the worst, and ``X_text``, the text of
    X; of a measure also ``X_spread`` between seeds, ``X_more``, its interval in words, and
    ``X_class``, whether it is the best.
    """
    finals = summary.finals
    columns: dict[str, Any] = {
        "place": np.arange(1, len(finals) + 1, dtype=np.int32),
        "name": [visible(line.method.name) for line in finals],
        "family": [line.method.family for line in finals],
        "about": [
            visible(". ".join(part for part in (line.method.title, line.method.source) if part))
            for line in finals
        ],
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
        texts = columns[f"{name}_text"]
        best = texts[int((np.argmax if high else np.argmin)(columns[name]))]
        # Entropy is neither good nor bad.
        judged = name not in NEUTRAL and best != UNDEFINED
        columns[f"{name}_class"] = ["best" if judged and s == best else "" for s in texts]
    return columns


def _sortable(name: str, values: Sequence[float], form: str, *, high: bool) -> dict[str, Any]:
    undefined = -math.inf if high else math.inf
    return {
        name: np.array([undefined if math.isnan(value) else value for value in values]),
        f"{name}_text": [UNDEFINED if math.isnan(v) else format(v, form) for v in values],
    }


def _more(line: Line, measure: str) -> str:
    cell, spread = line.cells[measure], line.spread[measure]
    if not cell.n:
        return "defined on no sentence"
    low, high = cell.ci95
    words = f"{cell.mean:.4f}, 95 % interval {low:.4f} to {high:.4f}, {cell.n:,} sentences"
    if cell.nan:
        words += f", not defined on {cell.nan:,}"
    return words if math.isnan(spread) else f"{words}; spread between seeds {spread:.4f}"


def _lines_table(source: ColumnDataSource, columns: Mapping[str, Any]) -> list[UIElement]:
    """Draw the filters and the table of a source that holds `line_columns`."""
    from bokeh import models
    from bokeh.layouts import row

    keep = models.BooleanFilter()
    families = models.Select(
        title="Family",
        value=EVERYONE,
        options=[EVERYONE, *dict.fromkeys(columns["family"])],
        name="family",
        width=160,
    )
    text = models.TextInput(title="Method contains", name="contains", width=240)
    spread = any(any(columns[f"{name}_spread"]) for name in MEASURES)
    height = 36 if spread else 22
    table = models.DataTable(
        source=source,
        view=models.CDSView(filter=keep),
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
        stylesheets=[models.InlineStyleSheet(css=_STYLE)],
        name="table",
    )
    arguments = {"source": source, "keep": keep, "families": families, "text": text}
    change = models.CustomJS(args=arguments | {"everyone": EVERYONE}, code=_FILTER)
    families.js_on_change("value", change)
    text.js_on_change("value_input", change)
    return [row(families, text), table]


def _table_columns(columns: Mapping[str, Any]) -> list[TableColumn]:
    # Bokeh compiles the templates; <%- escapes what it writes.
    text = '<span title="<%- about %>"><%- value %></span>'
    number = '<span class="number"><%- X_text %></span>'
    measure = (
        '<span class="number <%- X_class %>" title="<%- X_more %>"><%- X_text %>'
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


SHADES = 254  # steps from white to the darkest; one more is grey, of scores that are all equal

STYLE = """
.chosen { position: sticky; top: 0; z-index: 10; background: #fff; padding: .6rem 0;
  border-bottom: 1px solid #1b273322; }
.sentence { border-bottom: 1px solid #1b273311; padding: .7rem 0; }
.sentence > p { margin: 0 0 .3rem; font-size: .85rem; color: #44566a; }
.token { display: inline-block; text-align: center; border-radius: .35rem; padding: .1rem .45rem;
  margin: .1rem; border: 1px solid #1b273318; overflow-wrap: anywhere; max-width: 100%; }
.token small { display: block; font-size: .65rem; min-height: 1em;
  font-variant-numeric: tabular-nums; }
.special { font-style: italic; }
.subject { border: 2px solid #d55e00; }
.sentence > .measures { margin: .35rem 0 0; font-size: .75rem; }
.measures span { display: inline-block; margin-right: 1.1rem; white-space: nowrap; }
.measures b { font-weight: 600; font-variant-numeric: tabular-nums; color: #1b2733; }
"""

# Only text and colours are set: nothing here becomes markup.
_SHADE = """
const row = source.selected.indices[0];
if (row !== undefined) {
  const text = value => Number.isNaN(value) ? undefined_
    : value.toFixed(3).replace("-0.000", "0.000");
  document.getElementById("method").textContent = source.data.name[row];
  document.getElementById("about").textContent =
    `${source.data.about[row]} (${source.data.family[row]})`;
  const tokens = document.querySelectorAll(".sentence .token");
  tokens.forEach((token, place) => {
    const at = row * tokens.length + place;
    const [paper, ink] = colours[shares[at]];
    token.style.background = paper;
    token.style.color = ink;
    token.title = `${Number(scores[at].toPrecision(5))}`;
    token.lastChild.textContent = `${Number(scores[at].toPrecision(2))}`;
  });
  const cells = document.querySelectorAll(".sentence .measures b");
  cells.forEach((cell, place) => {
    cell.textContent = text(measures[row * cells.length + place]);
  });
}
"""


def _sentences(
    cases: Cases,
    tokens: Sequence[Sequence[str]],
    labels: Sequence[str],
    shown: Sequence[int],
    probabilities: Sequence[float] | None,
) -> str:
    """Write the sentences as HTML, not shaded yet; every piece of text is escaped."""
    inside = all(0 <= row < len(cases) for row in shown)
    fitting = inside and all(
        not isinstance(words, str) and len(words) == cases.lengths[row]
        for row, words in zip(shown, tokens, strict=False)
    )
    counts = {len(shown), len(tokens), len(probabilities or shown)}
    if not shown or len(counts) > 1 or not fitting or max(cases.labels[list(shown)]) >= len(labels):
        raise InputError(
            "shown, tokens, probabilities and labels must be those of at least one of the board's "
            f"{len(cases)} sentences, one token for each that the model reads, got {tuple(shown)}"
        )
    parts = [
        '<div class="chosen" aria-live="polite"><h2 id="method"></h2>'
        '<p class="note" id="about"></p></div>'
    ]
    measured = "".join(f"<span>{html.escape(TITLES[name])} <b></b></span>" for name in MEASURES)
    for place, (row, words) in enumerate(zip(shown, tokens, strict=True)):
        head = f"{place + 1}. {cases.label_name}: {labels[cases.labels[row]]}"
        if probabilities is not None:
            head += f", its {cases.value_name} {float(probabilities[place]):.3f}"
        chips = []
        for at, word in enumerate(words):
            kind = " special" if cases.special[row, at] else ""
            kind += " subject" if cases.subject[row] == at else ""
            text = html.escape(visible(str(word)))
            chips.append(f'<span class="token{kind}"><bdi>{text}</bdi><small></small></span>')
        # Isolated chips in a left-to-right row keep the order of the tokens in any script.
        parts.append(
            f'<article class="sentence"><p>{html.escape(visible(head))}</p>'
            f'<div dir="ltr">{"".join(chips)}</div><p class="measures">{measured}</p></article>'
        )
    return "\n".join(parts)


def _shading(
    summary: Summary, board: Board, shown: Sequence[int], source: ColumnDataSource
) -> CustomJS:
    """Return the callback that shades the sentences by the selected row of `source`."""
    from bokeh.models import CustomJS

    names = [line.method.name for line in summary.finals]
    rows = {board.rows[place][0]: place for place in board.final()}
    if missing := [name for name in names if name not in rows]:
        raise InputError(f"board must have every method of the summary, got none of {missing[0]}")
    lengths = board.cases.lengths[list(shown)]
    by_sentence = [
        [
            board.scores.values[name][row, -1, :n].astype(np.float32)
            for row, n in zip(shown, lengths, strict=True)
        ]
        for name in names
    ]
    steps = [np.concatenate([_steps(part) for part in parts]) for parts in by_sentence]
    measures = np.stack([board.measures[name] for name in MEASURES], -1)  # [R, S, M]
    chosen = measures[[rows[name] for name in names]][:, list(shown)]
    papers = [*(shade(step / SHADES) for step in range(SHADES + 1)), CONSTANT]
    return CustomJS(
        args={
            "source": source,
            "scores": np.stack([np.concatenate(parts) for parts in by_sentence]),
            "shares": np.stack(steps),
            "measures": chosen.astype(np.float32).reshape(len(names), -1),
            "colours": [[f"rgb{paper}", f"rgb{ink(paper)}"] for paper in papers],
            "undefined_": UNDEFINED,
        },
        code=_SHADE,
    )


def _steps(scores: NDArray[np.floating]) -> NDArray[np.uint8]:
    if is_constant(scores):
        return np.full(len(scores), SHADES + 1, np.uint8)
    return np.rint(SHADES * relative(scores.astype(np.float64))).astype(np.uint8)


_WIDER = "main { max-width: 100rem; }\n.lost li { font-size: .85rem; color: #44566a; }\n"


def as_leaderboard_page(
    summary: Summary,
    board: Board,
    tokens: Sequence[Sequence[str]],
    labels: Sequence[str],
    shown: Sequence[int],
    *,
    probabilities: Sequence[float] | None = None,
) -> str:
    """Return a leaderboard as an HTML document: a table to sort and filter, and below it sentences.

    A click on a method shades the sentences by its scores on `board`, the first seed's, and shows
    its measures on each. `tokens`, without padding, and `probabilities`, of the labelled class, are
    those of the sentences `shown`, places among ``board.cases``; `labels` are the classes' names.
    Raises `InputError` if there is no sentence, or an argument does not fit the board.
    """
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource

    sentences = _sentences(board.cases, tokens, labels, shown, probabilities)
    columns = line_columns(summary)
    source = ColumnDataSource(columns, name="lines")
    source.selected.indices = [0]
    shade = _shading(summary, board, shown, source)
    source.selected.js_on_change("indices", shade)
    document = Document()
    for root in _lines_table(source, columns):
        document.add_root(root)
    document.js_on_event("document_ready", shade)

    views = [View("filter", "", _notes(summary), 0), View("table", "", (), 1)]
    seeds = " As the model of the first seed has it." if summary.seeds > 1 else ""
    note = (
        f"{NOTE} What is below 0 is white. Special tokens are in italics, the subject's head "
        f"noun, where it is known, is framed.{seeds}"
    )
    below = Section(sentences, None, f'<p class="note">{html.escape(note)}</p>')
    return write_views(
        "jaxflow: leaderboard",
        "Which method finds the tokens that count",
        [(Section("", None, _left_out(summary)), views), (below, [])],
        document,
        STYLE + _WIDER,
    )


def _notes(summary: Summary) -> tuple[str, ...]:
    seeds = f", {summary.seeds} training seeds" if summary.seeds > 1 else ""
    spread = "; ± is the spread between the seeds' means" if summary.seeds > 1 else ""
    return (
        f"Means over {summary.sentences:,} sentences{seeds}, sorted by {TITLES[summary.key]}"
        f"{spread}. ↑ high is good, ↓ low is good, the best of a column is bold. A method of "
        "edges is EDGE/AGGREGATOR of the top layer. Mean ranks are by the measure that sorts.",
        "Click a header to sort and a method to see its sentences below; point at a number for "
        "its 95 % interval.",
    )


def _left_out(summary: Summary) -> str:
    """List what is left out, with reasons, and methods that are equal."""
    parts = {
        "Left out:": [f"{name}: {reason}" for name, reason in summary.left_out.items()],
        "One method under several names, on this model:": [
            ", ".join(g) for g in summary.equal_methods
        ],
    }
    return "".join(
        f'<p class="note">{title}</p><ul class="lost">'
        + "".join(f"<li>{html.escape(visible(line))}</li>" for line in lines)
        + "</ul>"
        for title, lines in parts.items()
        if lines
    )
