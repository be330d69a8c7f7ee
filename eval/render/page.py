"""Explanations as one HTML page that needs nothing else: no script, no network, no other file.

Every piece of text goes through `_text`, and the page's policy forbids scripts and any request, so
that a token can never become more than what is shown.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxflow.eval.explanation import METHODS, Explanation
from jaxflow.eval.render.shade import NOTE, ink, relative, shade, visible
from jaxflow.eval.render.terminal import headline, notes
from jaxflow.eval.text import short

__all__ = ["as_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; background: #f5f7fa; margin: 0; }
main { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; }
section { background: #fff; border-radius: .75rem; padding: 1.25rem 1.5rem; margin: 1.25rem 0;
  box-shadow: 0 1px 4px #1b273322; }
h2 { font-size: 1.15rem; margin: 0; }
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
.note { font-size: .85rem; color: #44566a; margin: .4rem 0 0; }
@media (max-width: 34rem) { .method { grid-template-columns: 1fr; } }
"""


def as_page(explanations: Sequence[Explanation]) -> str:
    """Write explanations as a page.

    Parameters
    ----------
    explanations
        At least one.

    Returns
    -------
    str
        The whole HTML document.
    """
    body = "\n".join(_section(explanation) for explanation in explanations)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxflow: {_text(explanations[0].text)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Which tokens the prediction came from</h1>
{body}
<p class="note">{_text(NOTE)}</p>
</main>
</body>
</html>
"""


def _text(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _section(explanation: Explanation) -> str:
    methods = "\n".join(_method(explanation, name) for name in METHODS)
    remarks = "\n".join(f'<p class="note">{_text(line)}</p>' for line in notes(explanation))
    return f"""<section>
<h2><bdi>{_text(explanation.text)}</bdi></h2>
<p class="prediction">{_text(headline(explanation))}</p>
{methods}
{_agreement(explanation)}
{remarks}
</section>"""


def _method(explanation: Explanation, name: str) -> str:
    scores = explanation.scores[name]
    chips = []
    for token, score, share in zip(explanation.tokens, scores, relative(scores), strict=True):
        paper = shade(share)
        kind = "token" if token.known else "token unknown"
        told = f"{METHODS[name]}: {score:.6g}"
        if token.seen != token.text:
            told += f", read as {token.seen}"
        chips.append(
            f'<span class="{kind}" style="background:rgb{paper};color:rgb{ink(paper)}" '
            f'title="{_text(told)}"><bdi>{_text(token.text)}</bdi><small>{score:.2g}</small></span>'
        )
    # Isolated chips in a left-to-right row keep the order of the tokens whatever script they are.
    return (
        f'<div class="method"><h3>{_text(METHODS[name])}</h3><div dir="ltr">{"".join(chips)}</div>'
        "</div>"
    )


def _agreement(explanation: Explanation) -> str:
    titles = "".join(f'<th scope="col">{_text(title)}</th>' for title in METHODS.values())
    rows = []
    for title, row in zip(METHODS.values(), explanation.agreement, strict=True):
        cells = "".join(f"<td>{short(float(value))}</td>" for value in row)
        rows.append(f'<tr><th scope="row">{_text(title)}</th>{cells}</tr>')
    return (
        "<table><caption>Agreement between methods (Spearman over the tokens)</caption>"
        f"<thead><tr><td></td>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
