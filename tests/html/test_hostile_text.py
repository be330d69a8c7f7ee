"""Test that hostile text stays text in every page and in a notebook's cell."""

from __future__ import annotations

import dataclasses
import functools
import html
import re

import leaderboard_data
import numpy as np
import pytest
from page_reader import Reader
from tiny_models import tiny

import jaxflow
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explanation import explainer
from jaxflow.eval.leaderboard.page import as_leaderboard_page
from jaxflow.eval.leaderboard.summary import summarise_boards
from jaxflow.html.style import visible

#: Without spaces: a space would make two words of one.
HOSTILE = (
    "</script><img/src=x/onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "'\"onmouseover=alert(1)//",
    "--><script>alert(1)</script>",
    "]]></style><style>*{display:none}",
    "&lt;script&gt;&#60;b&#62;&amp;",
    "javascript:alert(1)",
    "\x00\x07\x1b[31m\x7f\x85",
    "\u202e\u2066\u200ereversed\u2069",
    "\u2028\u2029",
    "{{7*7}}${7*7}<%=7%>@{x}$index",
    "$$\\href{javascript:alert(1)}{x}$$",
    "\ufeff\ufffe",
)
HALVES = ("\ud800", "a\udfffb")  # halves of a character, which no model reads
PLAIN = tuple(f"w{place}" for place in range(len(HOSTILE) + len(HALVES)))


@functools.cache
def explain():
    return explainer(tiny(positions=400))


def notebook(words):
    n = len(words)
    attention = np.full((1, 1, n, n), 1 / n, np.float32)
    return jaxflow.show(attention, list(words), scores={words[0]: np.ones(n)}).html


def explained(words):
    # The same for as many pieces: a page has an element a token.
    found = explain()("the key " * 7 + "the")
    tokens = [
        type(token)(words[place % len(words)], words[0], False)
        for place, token in enumerate(found.tokens)
    ]
    return as_page([dataclasses.replace(found, text=" ".join(words), tokens=tuple(tokens))])


def ranked(words):
    cases = leaderboard_data.cases(6, longest=len(words))
    board = leaderboard_data.board(cases, leaderboard_data.methods(6))
    summary = summarise_boards([board])
    tokens = [list(words[: cases.lengths[row]]) for row in (0, 1)]
    return as_leaderboard_page(summary, board, tokens, words[:2], (0, 1))


PAGES = {"notebook": notebook, "explanation": explained, "leaderboard": ranked}


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text(name):
    words = (*HOSTILE, *(() if name == "explanation" else HALVES))
    page = PAGES[name](words)
    page.encode("utf-8")  # no half of a character is left
    ours, theirs = Reader(page), Reader(PAGES[name](PLAIN[: len(words)]))
    assert ours.tags == theirs.tags
    assert [key for key, _ in ours.attributes] == [key for key, _ in theirs.attributes]
    assert len(ours.scripts) == len(theirs.scripts)
    names = {key for key, _ in ours.attributes}
    assert not {key for key in names if key.startswith("on")} | (names & {"src", "href"})
    text = "".join(ours.text)
    assert visible(words[0]) in text
    codes = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029\u202e\u2066\u2069]"
    assert not re.search(codes, page.split("<script")[0])
    assert "onerror=alert(1)>" not in page.replace(html.escape("onerror=alert(1)>"), "")


def test_a_notebooks_frame_ends_where_it_should():
    words = (*HOSTILE, *HALVES)
    n = len(words)
    page = jaxflow.show(np.full((1, 1, n, n), 1 / n, np.float32), list(words))
    frame = Reader(page._repr_html_())
    assert frame.tags == ["iframe"]
    assert dict(frame.attributes)["srcdoc"] == page.html
    assert "".join(frame.text) == ""
