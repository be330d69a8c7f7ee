"""Sentences below the leaderboard's table, shaded by the method that was clicked.

The tokens are written once, as text; what changes with the method are colours and numbers.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.explain.shade import ink, relative, shade, visible
from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.cases import Cases
from jaxflow.eval.leaderboard.summary import TITLES, Summary
from jaxflow.eval.report.text import UNDEFINED

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, CustomJS

__all__ = ["STYLE", "Shown", "as_html", "choose_sentences", "shading"]

SHADES = 255  # steps from white to the darkest

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
.sentence > .told { margin: .35rem 0 0; font-size: .75rem; }
.told span { display: inline-block; margin-right: 1.1rem; white-space: nowrap; }
.told b { font-weight: 600; font-variant-numeric: tabular-nums; color: #1b2733; }
"""

# Only text and colours are set: nothing here becomes markup.
_SHADE = """
const row = source.selected.indices[0];
if (row !== undefined) {
  const said = value => Number.isNaN(value) ? undefined_
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
  const cells = document.querySelectorAll(".sentence .told b");
  cells.forEach((cell, place) => {
    cell.textContent = said(measures[row * cells.length + place]);
  });
}
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """K sentences, of T tokens in all.

    Attributes
    ----------
    cases
        Where they are from.
    rows
        Their places there, ``[K]``.
    tokens
        Of each sentence, as text.
    golds
        What each is labelled, ``[K]``.
    probabilities
        Of that label, ``[K]``; None where they are not known.
    """

    cases: Cases
    rows: tuple[int, ...]
    tokens: tuple[tuple[str, ...], ...]
    golds: tuple[str, ...]
    probabilities: tuple[float, ...] | None


def choose_sentences(
    cases: Cases,
    tokens: Sequence[Sequence[str]],
    labels: Sequence[str],
    shown: Sequence[int],
    probabilities: Sequence[float] | None,
) -> Shown:
    """Check what is to be shown.

    Parameters
    ----------
    cases
        The sentences of the board.
    tokens
        Of each sentence shown, padding left out.
    labels
        The names of the classes.
    shown
        Which sentences.
    probabilities
        Of each sentence shown: that of its labelled class.

    Raises
    ------
    InputError
        If there is no sentence, or what is given does not fit the cases.
    """
    rows = tuple(int(row) for row in shown)
    if not rows or len(tokens) != len(rows):
        raise InputError(
            f"tokens must be those of the sentences shown, at least one, got {len(tokens)} for "
            f"{len(rows)}"
        )
    if wrong := [row for row in rows if not 0 <= row < len(cases)]:
        raise InputError(f"shown must be from 0 to {len(cases) - 1}, got {wrong[0]}")
    for row, words in zip(rows, tokens, strict=True):
        if isinstance(words, str) or len(words) != cases.lengths[row]:
            raise InputError(
                f"tokens of sentence {row} must be {cases.lengths[row]}, one for each that the "
                f"model reads, got {words!r}"
            )
    classes = [int(cases.labels[row]) for row in rows]
    if max(classes) >= len(labels):
        raise InputError(
            f"labels must name every class, at least {max(classes) + 1}, got {len(labels)}"
        )
    if probabilities is not None and len(probabilities) != len(rows):
        raise InputError(
            f"probabilities must be {len(rows)}, one for each sentence shown, got "
            f"{len(probabilities)}"
        )
    return Shown(
        cases=cases,
        rows=rows,
        tokens=tuple(tuple(str(word) for word in words) for words in tokens),
        golds=tuple(str(labels[each]) for each in classes),
        probabilities=None if probabilities is None else tuple(float(p) for p in probabilities),
    )


def as_html(shown: Shown) -> str:
    """Write the sentences, not shaded yet; every piece of text is escaped."""
    parts = [
        '<div class="chosen" aria-live="polite"><h2 id="method"></h2>'
        '<p class="note" id="about"></p></div>'
    ]
    told = "".join(f"<span>{html.escape(TITLES[name])} <b></b></span>" for name in MEASURES)
    for place, (row, words, gold) in enumerate(
        zip(shown.rows, shown.tokens, shown.golds, strict=True), start=1
    ):
        head = f"{place}. gold label: {gold}"
        if shown.probabilities is not None:
            head += f", its probability {shown.probabilities[place - 1]:.3f}"
        chips = []
        for at, word in enumerate(words):
            kind = " special" if shown.cases.special[row, at] else ""
            kind += " subject" if shown.cases.subject[row] == at else ""
            chips.append(
                f'<span class="token{kind}"><bdi>{html.escape(visible(word))}</bdi>'
                "<small></small></span>"
            )
        # Isolated chips in a left-to-right row keep the order of the tokens in any script.
        parts.append(
            f'<article class="sentence"><p>{html.escape(visible(head))}</p>'
            f'<div dir="ltr">{"".join(chips)}</div><p class="told">{told}</p></article>'
        )
    return "\n".join(parts)


def shading(summary: Summary, board: Board, shown: Shown, source: ColumnDataSource) -> CustomJS:
    """Return what shades the sentences by the row of `source` that is selected."""
    from bokeh.models import CustomJS

    names = [line.method.name for line in summary.finals]
    rows = {board.rows[place][0]: place for place in board.final()}
    if missing := [name for name in names if name not in rows]:
        raise InputError(f"board must have every method of the summary, got none of {missing[0]}")
    scores = np.stack([_scores(board, shown, name) for name in names])
    shares = np.stack([_shares(one, shown) for one in scores])
    measures = np.stack([board.measures[name] for name in MEASURES], -1)  # [R, S, M]
    chosen = measures[[rows[name] for name in names]][:, list(shown.rows)]
    papers = [shade(step / SHADES) for step in range(SHADES + 1)]
    return CustomJS(
        args={
            "source": source,
            "scores": scores,
            "shares": shares,
            "measures": chosen.astype(np.float32).reshape(len(names), -1),
            "colours": [[f"rgb{paper}", f"rgb{ink(paper)}"] for paper in papers],
            "undefined_": UNDEFINED,
        },
        code=_SHADE,
    )


def _scores(board: Board, shown: Shown, name: str) -> NDArray[np.float32]:
    """Return the scores of all tokens shown, ``[T]``, by the top layer."""
    values = board.scores.values[name]
    parts = [values[row, -1, : shown.cases.lengths[row]] for row in shown.rows]
    return np.concatenate(parts).astype(np.float32)


def _shares(scores: NDArray[np.float32], shown: Shown) -> NDArray[np.uint8]:
    """Relate scores ``[T]`` to the largest one of their sentence."""
    ends = np.cumsum(shown.cases.lengths[list(shown.rows)])[:-1]
    parts = [relative(part.astype(np.float64)) for part in np.split(scores, ends)]
    return np.rint(SHADES * np.concatenate(parts)).astype(np.uint8)
