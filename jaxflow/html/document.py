"""Write one self-contained HTML file of many views, with Bokeh inside.

A token appears on the page in three ways, each of which treats it as text only: in HTML it is
escaped; in the data it is a string of JSON, which Bokeh escapes once more for the HTML around it;
and Bokeh draws it as plain text. Should one of them fail, the page's policy still runs no script
but the page's own, identified by their hashes, and sends no request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxflow.html.bars import bars
from jaxflow.html.content import Content, Edges, Maps, heaviest_edges, rounded_maps
from jaxflow.html.graph import flow_graph
from jaxflow.html.heat_map import heat_map
from jaxflow.html.style import is_constant, visible

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.models import UIElement

# Bytes of all heat maps of a page, so that with Bokeh and the rest it stays below 5 MB.
MAPS_BUDGET = 2_850_000

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; background: #f5f7fa; margin: 0; }
main { max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; }
section { background: #fff; border-radius: .75rem; padding: 1.25rem 1.5rem; margin: 1.25rem 0;
  box-shadow: 0 1px 4px #1b273322; }
h2 { font-size: 1.15rem; margin: 0; }
.view > h3 { font-size: 1rem; margin: 1.75rem 0 0; }
.controls { position: sticky; top: 0; z-index: 10; background: #fff; padding: .5rem 0;
  margin-top: 1rem; border-bottom: 1px solid #1b273322; }
.note { font-size: .85rem; color: #44566a; margin: .4rem 0 .6rem; }
"""

_TEMPLATE = """
{% block head %}
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title | e }}</title>
<style>{{ style }}</style>
{{ bokeh_css }}
</head>
{% endblock %}
{% block body %}
{% from macros import embed %}
<body>
<main>
<h1>{{ heading | e }}</h1>
{% for section, views in sections %}
<section>
{{ section.intro }}
<div>
{% for view in views %}
{# The controls stay visible beside the views that they control. #}
{% if view.kind == "graph" %}</div><div>{% endif %}
<div class="view {{ view.kind }}">
{% if view.title %}<h3>{{ view.title | e }}</h3>{% endif %}
{% for note in view.notes %}<p class="note">{{ note | e }}</p>{% endfor %}
{{ embed(roots[view.root]) }}
</div>
{% endfor %}
</div>
{{ section.outro }}
</section>
{% endfor %}
</main>
{{ bokeh_js }}
{{ plot_script }}
</body>
{% endblock %}
"""
# Placeholder of the policy until the scripts are written and can be hashed.
_PLACEHOLDER = "the policy"


class Section(NamedTuple):
    """A sentence on the page: HTML before its views, all text in it escaped, and after them."""

    intro: str
    content: Content | None
    outro: str = ""


class View(NamedTuple):
    """A drawn element: its CSS class, plain text above it, and its index among the roots."""

    kind: str
    title: str
    notes: tuple[str, ...]
    root: int


def write_page(title: str, heading: str, sections: Sequence[Section], style: str = "") -> str:
    """Return the HTML document of sections, at least one of them with content.

    `title` and `heading` are plain text, `style` further CSS rules.
    """
    budget = MAPS_BUDGET // sum(section.content is not None for section in sections)
    roots: list[UIElement] = []
    drawn = [
        (section, [] if section.content is None else _views(section.content, budget, roots))
        for section in sections
    ]
    return write_views(title, heading, drawn, roots, style)


def write_views(
    title: str,
    heading: str,
    sections: Sequence[tuple[Section, Sequence[View]]],
    roots: Sequence[UIElement] | Document,
    style: str = "",
) -> str:
    """Return the HTML document of sections whose views are drawn already.

    `roots` are the drawn elements, or the document that holds them; the rest is as for
    `write_page`.
    """
    from bokeh.embed import file_html
    from bokeh.resources import Resources

    page = file_html(
        roots,
        Resources(mode="inline"),
        title=visible(title),
        template=_TEMPLATE,
        template_variables={
            "heading": visible(heading),
            "policy": _PLACEHOLDER,
            "sections": sections,
            "style": _STYLE + style,
        },
    )
    return page.strip().replace(_PLACEHOLDER, _policy(page), 1) + "\n"


def _policy(page: str) -> str:
    """Allow the page's own scripts by their hashes, styles, and nothing that has an address."""
    scripts = re.findall(r"<script(?![^>]*application/json)[^>]*>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    # Bokeh compiles the links between widgets and views at run time, hence unsafe-eval.
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _views(content: Content, budget: int, roots: list[UIElement]) -> list[View]:
    """Draw the views of a sentence, append them to `roots`, and return their places."""
    from bokeh.layouts import row
    from bokeh.models import Select, Slider

    depth, heads = content.attention.shape[:2]
    maps, edges = rounded_maps(content.attention, budget), heaviest_edges(content.edges)
    layer = Slider(
        start=1, end=max(depth, 2), step=1, value=depth, title="Layer", name="layer",
        sizing_mode="stretch_width", disabled=depth == 1,
    )  # fmt: skip
    options = [(0, "mean of the heads"), *((head, f"head {head}") for head in range(1, heads + 1))]
    head = Select(title="Head", value=0, options=options, name="head", sizing_mode="stretch_width")
    first = len(roots)
    roots += [
        row(layer, head, sizing_mode="stretch_width"),
        bars(content, layer, head),
        heat_map(content.tokens, maps, layer, head),
        flow_graph(content, edges),
    ]
    top = visible(content.tokens[content.source])
    return [
        View("controls", "", (), first),
        View(
            "bars",
            "Two methods side by side",
            (
                f"How much each token counts for {top} after the layer chosen. Rollout and flow "
                "follow all layers up to it; with a head chosen, as if each layer had only that "
                "head. Scales differ from method to method.",
                *_constant_notes(content),
            ),
            first + 1,
        ),
        View("map", "Attention", _map_notes(maps, heads), first + 2),
        View("graph", "Flow", _graph_notes(content, edges), first + 3),
    ]


def _constant_notes(content: Content) -> tuple[str, ...]:
    top = {name: values[-1, 0] for name, values in content.layered.items()}
    same = [name for name, values in (top | dict(content.plain)).items() if is_constant(values)]
    grey = "Bars are grey where all tokens have the same score; pointing at a bar shows its ties."
    if not same or len(content.tokens) == 1:
        return (grey,)
    return (grey, f"Constant after the top layer, and so no ranking: {', '.join(same)}.")


def _map_notes(maps: Maps, heads: int) -> tuple[str, ...]:
    notes = [
        f"Values are rounded to {maps.step:g}; darker is more, small values spread out. A map is "
        "grey where all its entries are the same."
    ]
    if maps.heads < heads:
        notes.append(f"Left out to keep the page small: the {heads} heads apart, only their mean.")
    return tuple(notes)


def _graph_notes(content: Content, edges: Edges) -> tuple[str, ...]:
    top = visible(content.tokens[content.source])
    notes = [
        f"Each layer keeps {content.residual:.0%} of a token and mixes the rest by its attention, "
        "heads averaged; the wider an edge, the more it weighs. Point at a token to see its "
        "edges, even those lighter than the slider lets through. Click it to see the minimum cut "
        f"between {top} at the top and it: the edges that together hold the flow down. Darker "
        "tokens get more flow.",
    ]
    if is_constant(content.flows) and len(content.tokens) > 1:
        notes.append("Tokens are grey: all input tokens get the same flow, which ranks nothing.")
    kept = len(edges.weight)
    if kept < edges.total:
        notes.append(
            f"Left out to keep the page small: {edges.total - kept:,} of {edges.total:,} edges, "
            f"none heavier than {edges.weight[0]:.2g}; those kept carry {edges.share:.1%} of the "
            "weight. Cuts are worked out and drawn on all edges."
        )
    if len(content.edges) > 1 and len(content.cuts) == len(content.tokens):
        notes.append("Left out, because it takes long: cuts to tokens between input and top.")
    return tuple(notes)
