"""The leaderboard as one interactive HTML page that needs no network and no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxflow.eval.explain.shade import NOTE, visible
from jaxflow.eval.leaderboard.board import Board
from jaxflow.eval.leaderboard.page_sentences import STYLE, as_html, choose_sentences, shading
from jaxflow.eval.leaderboard.page_table import line_columns, lines_table
from jaxflow.eval.leaderboard.summary import TITLES, Summary
from jaxflow.html.document import Section, View, write_views

__all__ = ["as_leaderboard_page"]

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
    """Write a leaderboard as a page: a table to sort and filter, and below it sentences.

    A click on a method shades the sentences by its scores and tells its measures on each.

    Parameters
    ----------
    summary
        The board in numbers.
    board
        Of the first seed: what the sentences are shaded by.
    tokens
        Of each sentence shown, padding left out.
    labels
        The names of the classes.
    shown
        Which sentences, places among ``board.cases``.
    probabilities
        Of each sentence shown: that of its labelled class.

    Returns
    -------
    str
        The whole HTML document.

    Raises
    ------
    InputError
        If there is no sentence, or what is given does not fit the board.
    """
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource

    sentences = choose_sentences(board.cases, tokens, labels, shown, probabilities)
    columns = line_columns(summary)
    source = ColumnDataSource(columns, name="lines")
    source.selected.indices = [0]
    shade = shading(summary, board, sentences, source)
    source.selected.js_on_change("indices", shade)
    document = Document()
    for root in lines_table(source, columns):
        document.add_root(root)
    document.js_on_event("document_ready", shade)

    views = [
        View("filter", "", _notes(summary), 0),
        View("table", "", (), 1),
    ]
    below = Section(as_html(sentences), None, f'<p class="note">{html.escape(_below(summary))}</p>')
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


def _below(summary: Summary) -> str:
    seeds = " As the model of the first seed has it." if summary.seeds > 1 else ""
    return (
        f"{NOTE} What is below 0 is white. Special tokens are in italics, the subject's head "
        f"noun, where it is known, is framed.{seeds}"
    )


def _left_out(summary: Summary) -> str:
    """Say what is not there, and why; and what is there more than once."""
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
