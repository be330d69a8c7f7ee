"""Test the page as a file: numbers of the public functions, and text that is only text."""

from __future__ import annotations

import base64
import hashlib
import re
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
from attentions import attention_of
from page_reader import NASTY, Reader, columns, document

import jaxflow
from jaxflow.errors import InputError
from jaxflow.html.content import STEPS, heaviest_edges, prepare, rounded_maps
from jaxflow.html.document import Section, write_page
from jaxflow.html.graph import cut_columns, node_columns
from jaxflow.html.style import grey, shades, visible

N = len(NASTY)


@pytest.fixture(scope="module")
def content(attention):
    return prepare(attention, NASTY)


def test_every_bar_is_the_public_functions_score(page, attention, own_scores):
    data = columns(page.html, "bars-0")
    for head, fused in enumerate(("mean", 0, 1)):
        expected = [
            jaxflow.raw_attention(attention, heads=fused)[:, 0],
            jaxflow.rollout(attention, heads=fused)[:, 0],
            jaxflow.flow(attention, heads=fused, sources=0)[:, 0],
        ]
        for method, layer in np.ndindex(3, 3):
            there = (data["method"] == method) & (data["layer"] == layer + 1)
            there &= data["head"] == head
            assert data["token"][there].tolist() == list(range(N))
            np.testing.assert_allclose(data["score"][there], expected[method][layer], atol=2e-5)
    there = data["method"] == 3
    assert (data["layer"][there] == 0).all()
    np.testing.assert_allclose(data["score"][there], own_scores, atol=2e-5)


def test_heat_maps_and_edges_are_those_of_the_attention(page, attention):
    data = columns(page.html, "map")
    assert len(data["image"]) == 3 * 3
    for image, layer, head in zip(data["image"], data["layer"], data["head"], strict=True):
        expected = attention[layer - 1].mean(0) if head == 0 else attention[layer - 1, head - 1]
        np.testing.assert_allclose(np.asarray(image) * 0.0001, expected, atol=0.00005 + 1e-7)
    (graph,) = document(page.html).select({"name": "graph"})
    drawn = graph.edge_renderer.data_source.data
    shown = dict(zip(zip(drawn["start"], drawn["end"], strict=True), drawn["weight"], strict=True))
    edges = nx.get_edge_attributes(jaxflow.attention_graph(attention), "capacity")
    assert len(edges) == len(shown)
    for (upper, lower), weight in edges.items():
        pair = (upper[0] * N + upper[1], lower[0] * N + lower[1])
        assert shown[pair] == pytest.approx(weight, abs=1e-5)


def test_cuts_weigh_as_much_as_the_flow_and_leave_no_path(content, attention):
    graph = jaxflow.attention_graph(attention)
    assert len({len(cut.edges) for cut in content.cuts.values()}) > 2  # or this shows little
    for (level, token), cut in content.cuts.items():
        # Nodes are (layer, token) with the input as layer 0.
        value = nx.maximum_flow_value(graph, (3, 0), (level, token))
        assert cut.value == pytest.approx(value, abs=1e-9)
        without = graph.copy()
        without.remove_edges_from(((up + 1, query), (up, key)) for up, query, key in cut.edges)
        assert not nx.has_path(without, (3, 0), (level, token))
        if level == 0:
            assert cut == jaxflow.flow_cut(attention, layer=-1, source=0, sink=token)


def test_lines_and_words_of_a_node_are_those_of_its_cut(page, content):
    data, nodes = columns(page.html, "cut"), node_columns(content)
    words = cut_columns(content)["words"]
    assert nodes["index"].tolist() == list(range(4 * N))
    for row, (level, token) in enumerate(np.ndindex(4, N)):
        xs, ys = (np.asarray(data[name][row]).reshape(-1, 3) for name in ("xs", "ys"))
        edges = {(int(y[0]) - 1, int(x[0]), int(x[1])) for x, y in zip(xs, ys, strict=True)}
        cut = content.cuts.get((level, token))
        assert edges == set(cut.edges if cut else ())
        assert (ys[:, 0] == ys[:, 1] + 1).all()
        if cut is None:
            assert np.isnan(nodes["flow"][row])
            assert "No cut" in words[row]
        else:
            assert nodes["flow"][row] == pytest.approx(cut.value, abs=1e-6)
            assert f"held down by {len(cut.edges)} edge" in words[row]


def test_a_cut_of_a_whole_column_is_named_so_on_every_level():
    # Each layer lets a little through to the last token; of nine it is more than its column has.
    attention = np.full((9, 1, 3, 3), 0.45)
    attention[..., 2] = 0.1
    data = node_columns(prepare(attention, ["[CLS]", "the", "keys"]))
    assert data["words"][2] == (
        "layer 1, everything → keys: flow is at the column sum, independent of the source"
    )
    assert data["words"][3 + 2] == "layer 2, everything → keys: flow is all that arrives there"


def test_edges_and_maps_are_kept_as_the_budget_allows(monkeypatch):
    weights = np.random.default_rng(0).dirichlet(np.ones(6), (2, 6))
    weights[0, 0, 1] = 0
    kept = heaviest_edges(weights, 20)
    assert (kept.total, len(kept.weight)) == (71, 20)  # an edge of weight 0 is none
    assert kept.weight.tolist() == sorted(weights.ravel())[-20:]
    np.testing.assert_array_equal(weights[kept.layer, kept.query, kept.key], kept.weight)
    assert kept.share == pytest.approx(kept.weight.sum() / weights.sum())
    attention = attention_of("dense", 0, (3, 2, 8, 8))
    full = rounded_maps(attention, 10**6)
    assert full.step == STEPS[0]
    np.testing.assert_allclose(full.steps[:, 1:] * full.step, attention, atol=full.step / 2 + 1e-9)
    monkeypatch.setattr("jaxflow.html.document.MAPS_BUDGET", 1000)
    monkeypatch.setattr("jaxflow.html.content.MOST_EDGES", 30)
    monkeypatch.setattr("jaxflow.html.content.MOST_INNER", 10)
    page = jaxflow.show(attention).html
    assert set(columns(page, "map")["head"]) == {0}
    for note in ("the 2 heads apart", "of 192 edges", "cuts to tokens between input and top"):
        assert note in page


def test_a_large_page_stays_below_five_megabytes():
    rows = np.random.default_rng(0).dirichlet(np.ones(128), (12, 12, 128)).astype(np.float32)
    page = jaxflow.show(rows).html
    assert len(page.encode()) < 5_000_000
    assert "Values are rounded to 0.001" in page
    assert "Left out to keep the page small: 191,608 of 196,608 edges" in page


def test_constant_scores_and_maps_are_grey_and_ties_are_named():
    rows = np.full((5, 1, 4, 4), 0.25)  # flow meets its bound, 1 for each token
    rows[0, 0] = 0.2 + 0.2 * np.eye(4)
    page = jaxflow.show(rows, scores={"mine": [3.0, 1.0, 2.0, 1.0]}).html
    for note in ("so no ranking: raw attention, flow.", "Tokens are grey: all input tokens get"):
        assert note in page
    bars, maps = columns(page, "bars-0"), columns(page, "map")
    assert bars["tied"][bars["method"] == 3].tolist() == [0, 1, 0, 1]
    top = (bars["method"] == 2) & (bars["layer"] == 5)
    assert set(bars["tied"][top]) == {3}
    assert maps["constant"].tolist() == [0, 0] + [1, 1] * 4
    found = document(page)
    (drawn,) = found.select({"name": "bars-0"})
    assert drawn.glyph.fill_color.transform.high_color == grey()
    assert drawn.glyph.fill_color.transform.high < 3
    (graph,) = found.select({"name": "graph"})
    assert graph.node_renderer.glyph.fill_color.transform.palette == [grey()]
    plain = jaxflow.show(attention_of("dense", 0, (2, 1, 4, 4))).html
    assert "no ranking" not in plain
    assert "Tokens are grey" not in plain


def test_shades_are_on_one_line_of_equal_steps():
    """On a line of CIELAB: lightness falls in equal steps where the share grows as a square."""
    values = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in shades()]) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    line = lightness[0] + np.sqrt(np.linspace(0, 1, 256)) * (lightness[-1] - lightness[0])
    assert np.abs(lightness - line).max() < 2.5


def test_padding_is_left_out(attention):
    keep = np.array([0, 2, 3, 7])
    small = attention[..., keep[:, None], keep]
    small = small / small.sum(-1, keepdims=True)
    wide, mask = np.zeros_like(attention), np.isin(np.arange(N), keep)
    wide[..., keep[:, None], keep] = small
    wide[..., ~mask, 0] = np.nan  # padded rows may hold anything
    scores = np.arange(float(N))
    masked = prepare(wide, NASTY, scores={"mine": scores}, mask=mask, source=2)
    plain = prepare(small, [NASTY[place] for place in keep], source=1)
    assert (masked.tokens, masked.source, masked.cuts) == (plain.tokens, 1, plain.cuts)
    assert masked.plain["mine"].tolist() == keep.tolist()
    for name, values in plain.layered.items():
        np.testing.assert_array_equal(masked.layered[name], values)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tokens": ["a"]}, "11 words"),
        ({"tokens": "a" * N}, "11 words"),
        ({"scores": {"mine": [1.0]}}, "'mine' of shape"),
        ({"scores": {"mine": [np.nan] * N}}, "finite"),
        ({"scores": {"flow": [1.0] * N}}, "must not be named"),
        ({"source": N}, "source must be an index"),
        ({"residual": 2}, "residual"),
        ({"mask": np.arange(N) > 4}, "padd"),
        ({"attention": np.ones((1, 1, 1, 1, 1))}, "one sentence"),
        ({"attention": np.eye(2)[None, None, [1, 1]], "mask": [False, True]}, "be a real token"),
    ],
)
def test_unusable_input_is_named(attention, options, part):
    with pytest.raises(InputError, match=part):
        prepare(**({"attention": attention} | options))


def test_every_token_is_there_as_text_that_is_no_formula(page):
    from bokeh.models import Axis, CustomJSHover, PlainText

    assert visible(" ".join(NASTY)) in Reader(page.html).text
    found = document(page.html)
    formatters = found.select({"type": CustomJSHover})
    names = [list(one.args["names"]) for one in formatters if "names" in one.args]
    assert [visible(token) for token in NASTY] in names
    axes = found.select({"type": Axis})
    labels = [label for axis in axes for label in axis.major_label_overrides.values()]
    assert {type(label) for label in labels if not isinstance(label, str)} == {PlainText}


def test_the_policy_names_every_script_and_allows_no_address(page):
    reader = Reader(page.html)
    (policy,) = [value for name, value in reader.attributes if name == "content" and "src" in value]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in reader.scripts
    }
    assert hashes == set(rules["script-src"].split()) - {"'unsafe-eval'"}
    assert not re.search(r"https?:|\*", policy)


def test_several_sentences_share_a_page_and_keep_their_words():
    contents = [prepare(attention_of("dense", seed, (2, 2, 4, 4))) for seed in range(2)]
    sections = [
        Section("<h2>one</h2>", contents[0]),
        Section("<h2>two</h2>", contents[1], "<p>end</p>"),
        Section("<h2>three</h2>", None),
    ]
    page = write_page("<title>", "a < b", sections, "h2 { color: red }")
    text = "".join(Reader(page).text)
    places = [text.index(part) for part in ("<title>", "a < b", "one", "two", "end", "three")]
    assert places == sorted(places)
    maps = list(document(page).select({"name": "map"}))
    found = [np.asarray(drawn.data_source.data["image"][1]) * 0.0001 for drawn in maps]
    assert len(found) == 2
    for content in contents:
        assert any(np.allclose(image, content.attention[0, 0], atol=6e-5) for image in found)


def test_a_notebook_shows_it_in_a_sandboxed_frame_and_it_is_saved(page, tmp_path):
    """That the frame holds the page and nothing else is tested with hostile text."""
    (sandbox,) = [
        value for name, value in Reader(page._repr_html_()).attributes if name == "sandbox"
    ]
    assert "allow-same-origin" not in sandbox
    assert re.fullmatch(r"<jaxflow page, \d\.\d MB: .*>", repr(page))
    target = page.save(tmp_path / "new" / "page.html")
    assert target.read_text(encoding="utf-8") == page.html
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match="cannot write to the folder"):
        page.save(target / "below.html")


def test_an_explanation_brings_its_tokens_and_scores(attention, own_scores):
    explanation = SimpleNamespace(
        attention=attention,
        tokens=[SimpleNamespace(text=token) for token in NASTY],
        scores={"raw": own_scores, "gradient_norm": own_scores},
    )
    found = document(jaxflow.show(explanation, scores={"more": own_scores}).html)
    (select,) = found.select({"name": "method-0"})
    labels = [label for _, label in select.options]
    assert labels == ["raw attention", "rollout", "flow", "gradient norm", "more"]
    with pytest.raises(InputError, match="tokens must not be given"):
        jaxflow.show(explanation, NASTY)
