"""Write explanations as one interactive HTML page that needs no network and no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxflow.errors import InputError
from jaxflow.eval.explain.text import headline, notes
from jaxflow.eval.explanation import ON_ATTENTION, Explanation, title_of
from jaxflow.eval.plots.style import NOTE, ink, paint, visible
from jaxflow.eval.report import short
from jaxflow.html.content import Content, prepare
from jaxflow.html.document import Section, write_page

#: How many sentences of a page get views of their own; the first ones do.
MOST_VIEWS = 10

_STYLE = """
.prediction { margin: .25rem 0 1rem; color: #44566a; }
.method { display: grid; grid-template-columns: 8rem 1fr; align-items: center; margin: .5rem 0; }
.method > h3 { font-size: .85rem; font-weight: 600; color: #44566a; margin: 0; }
.token { display: inline-block; text-align: center; border-radius: .35rem; padding: .1rem .45rem;
  margin: .1rem; border: 1px solid #1b273318; overflow-wrap: anywhere; }
.token small { display: block; font-size: .65rem; font-variant-numeric: tabular-nums; }
.unknown { border-style: dashed; border-color: #b3261e; font-style: italic; }
table { border-collapse: collapse; margin-top: 1rem; font-size: .85rem; }
caption { text-align: left; font-weight: 600; color: #44566a; padding-bottom: .25rem; }
th { font-weight: 500; text-align: left; padding: .15rem .6rem .15rem 0; }
td { text-align: right; padding: .15rem .6rem; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { .method { grid-template-columns: 1fr; } }
"""


def as_page(explanations: Sequence[Explanation]) -> str:
    """Return explanations, at least one, as a whole HTML document.

    Every sentence gets its prediction, its tokens shaded by every method, and the agreement between
    methods; the first `MOST_VIEWS` also bars, heat map and flow graph. Raises `InputError` if there
    is no explanation.
    """
    if not explanations:
        raise InputError("explanations must hold at least one, got none")
    sections = [
        _section(explanation, place < MOST_VIEWS) for place, explanation in enumerate(explanations)
    ]
    if len(explanations) > MOST_VIEWS:
        left_out = (
            f"Left out to keep the page small: views of the {len(explanations) - MOST_VIEWS} "
            f"sentences after the first {MOST_VIEWS}. {NOTE}"
        )
        sections[-1] = sections[-1]._replace(outro=_note(left_out))
    else:
        sections[-1] = sections[-1]._replace(outro=_note(NOTE))
    return write_page(
        f"jaxflow: {explanations[0].title}",
        "Which tokens the prediction came from",
        sections,
        _STYLE,
    )


def _content(explanation: Explanation) -> Content:
    """Prepare the views, without the scores that the page computes for every layer and head."""
    return prepare(
        explanation.attention,
        [token.text for token in explanation.tokens],
        scores={
            title_of(name): values
            for name, values in explanation.scores.items()
            if name not in ON_ATTENTION
        },
        residual=explanation.residual,
        source=explanation.readout,
    )


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>'


def _text(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _section(explanation: Explanation, views: bool) -> Section:
    methods = "\n".join(_method(explanation, name) for name in explanation.scores)
    remarks = "\n".join(_note(line) for line in notes(explanation))
    intro = f"""<h2><bdi>{_text(explanation.title)}</bdi></h2>
<p class="prediction">prediction: {_text(headline(explanation))}</p>
{methods}
{_agreement(explanation)}
{remarks}"""
    return Section(intro, _content(explanation) if views else None)


def _method(explanation: Explanation, name: str) -> str:
    scores = explanation.scores[name]
    chips = []
    for token, score, paper in zip(explanation.tokens, scores, paint(scores), strict=True):
        kind = "token" if token.known else "token unknown"
        title = f"{title_of(name)}: {score:.6g}"
        if token.seen != token.text:
            title += f", read as {token.seen}"
        chips.append(
            f'<span class="{kind}" style="background:rgb{paper};color:rgb{ink(paper)}" '
            f'title="{_text(title)}"><bdi>{_text(token.text)}</bdi><small>{score:.2g}</small></span>'
        )
    # Isolated chips in a left-to-right row keep the order of the tokens whatever script they are.
    heading = title_of(name) + (" (constant)" if name in explanation.constant else "")
    return (
        f'<div class="method"><h3>{_text(heading)}</h3><div dir="ltr">{"".join(chips)}</div></div>'
    )


def _agreement(explanation: Explanation) -> str:
    names = [title_of(name) for name in explanation.scores]
    titles = "".join(f'<th scope="col">{_text(title)}</th>' for title in names)
    rows = []
    for title, row in zip(names, explanation.agreement, strict=True):
        cells = "".join(f"<td>{short(float(value))}</td>" for value in row)
        rows.append(f'<tr><th scope="row">{_text(title)}</th>{cells}</tr>')
    return (
        "<table><caption>Agreement between methods (Spearman over the tokens)</caption>"
        f"<thead><tr><td></td>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
