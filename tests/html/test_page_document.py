"""The page as a file: every token is text, no script but its own may run, nothing is asked for."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from types import SimpleNamespace

import numpy as np
import pytest
from attentions import attention_of
from page_reader import NASTY, Reader, document

import jaxflow
from jaxflow.html.document import Section, write_page
from jaxflow.html.style import visible

POLICY = "Content-Security-Policy"


def test_tokens_bring_no_element_and_no_attribute(page, attention):
    plain = jaxflow.show(attention, [f"w{place}" for place in range(len(NASTY))])
    ours, theirs = Reader(page.html), Reader(plain.html)
    assert ours.tags == theirs.tags
    assert [name for name, _ in ours.attributes] == [name for name, _ in theirs.attributes]
    assert {"img", "link", "iframe", "object", "a", "base", "form"}.isdisjoint(ours.tags)
    names = {name for name, _ in ours.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href"})


def test_every_token_is_there_as_text(page):
    from bokeh.models import CustomJSHover

    heading = visible(" ".join(NASTY))
    assert heading in Reader(page.html).text
    formatters = document(page.html).select({"type": CustomJSHover})
    names = [list(one.args["names"]) for one in formatters if "names" in one.args]
    assert [visible(token) for token in NASTY] in names
    # What is invisible or reorders its surroundings is written out.
    assert not re.search("[\u2028\u202e]", page.html.split("<script")[0])


def test_axes_take_no_token_for_a_formula(page):
    from bokeh.models import Axis, PlainText

    labels = [
        label
        for axis in document(page.html).select({"type": Axis})
        for label in axis.major_label_overrides.values()
        if not isinstance(label, str)
    ]
    assert labels
    assert {type(label) for label in labels} == {PlainText}


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


def test_the_same_input_gives_the_same_views():
    attention = attention_of("dense", 1, (2, 2, 4, 4))
    first, second = (Reader(jaxflow.show(attention).html) for _ in range(2))
    assert first.tags == second.tags
    assert len(first.data) == len(second.data)


def test_several_sentences_share_the_room_and_keep_their_words():
    from jaxflow.html.content import prepare

    contents = [prepare(attention_of("dense", seed, (2, 2, 4, 4))) for seed in range(2)]
    sections = [
        Section("<h2>one</h2>", contents[0]),
        Section("<h2>two</h2>", contents[1], "<p>end</p>"),
        Section("<h2>three</h2>", None),
    ]
    page = write_page("<title>", "a < b", sections, "h2 { color: red }")
    reader = Reader(page)
    text = "".join(reader.text)
    assert "<title>" in text
    assert "a < b" in text
    places = [text.index(part) for part in ("one", "two", "end", "three")]
    assert places == sorted(places)
    found = [
        np.asarray(drawn.data_source.data["image"][1]) * 0.0001
        for drawn in document(page).select({"name": "map"})
    ]
    assert len(found) == 2
    for content in contents:
        assert any(np.allclose(image, content.attention[0, 0], atol=6e-5) for image in found)


def test_a_notebook_gets_a_frame_of_its_own(page):
    frame = page._repr_html_()
    reader = Reader(frame)
    assert reader.tags == ["iframe"]
    attributes = dict(reader.attributes)
    assert attributes["srcdoc"] == page.html
    assert "allow-same-origin" not in attributes["sandbox"]
    assert html.escape(page.html[:15]) in frame
    assert re.fullmatch(r"<jaxflow page, \d\.\d MB: .*>", repr(page))


def test_saving(page, tmp_path):
    target = page.save(tmp_path / "new" / "page.html")
    assert target.read_text(encoding="utf-8") == page.html
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    with pytest.raises(jaxflow.InputError, match="cannot write to the folder"):
        page.save(target / "below.html")


def test_an_explanation_brings_its_tokens_and_scores(attention, own_scores):
    explanation = SimpleNamespace(
        attention=attention,
        tokens=[SimpleNamespace(text=token) for token in NASTY],
        scores={"raw": own_scores, "gradient_norm": own_scores},
    )
    found = document(jaxflow.show(explanation, scores={"more": own_scores}).html)
    (select,) = found.select({"name": "method-0"})
    assert [label for _, label in select.options] == [
        "raw attention", "rollout", "flow", "gradient norm", "more",
    ]  # fmt: skip
    with pytest.raises(jaxflow.InputError, match="tokens must not be given"):
        jaxflow.show(explanation, NASTY)
