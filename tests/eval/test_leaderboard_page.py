"""Test the leaderboard's page as a file, and in a browser without a network."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

import leaderboard_data
import numpy as np
import pytest
from browser import View, chromium, eventually, reason_for_none
from page_reader import NASTY, Reader

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES, NEUTRAL
from jaxflow.eval.leaderboard.methods import Method
from jaxflow.eval.leaderboard.page import as_leaderboard_page, line_columns
from jaxflow.eval.leaderboard.summary import TITLES, summarise_boards
from jaxflow.eval.plots.style import ink, relative, shade
from jaxflow.html.style import visible

REASON = reason_for_none()

SHOWN = (3, 0, 7)
UNDEFINED = 2  # the place of the method that a measure does not know
EVIL = Method(
    "evil/<img src=x onerror=alert(1)>",
    '</script><b title="x">$$x$$</b> <%= 1 %> {{ 7 * 7 }}',
    "vectors",
    "'a\u202eb' <script>alert(2)</script>",
)


class Made(NamedTuple):
    """A page, and what it is of."""

    summary: object
    board: object
    tokens: list
    page: str


@pytest.fixture(scope="module")
def made():
    cases = leaderboard_data.cases(30, longest=len(NASTY))
    members = [EVIL, *leaderboard_data.methods(12)]
    boards = [leaderboard_data.board(cases, members, seed=seed) for seed in range(3)]
    for board in boards:
        board.measures["spearman_gradient"][board.final()[UNDEFINED]] = np.nan
        board.measures["comprehensiveness"][:, 3] = np.nan
    summary = summarise_boards(boards)
    lines = tuple(
        dataclasses.replace(line, method=EVIL) if line.method.name == EVIL.name else line
        for line in summary.lines
    )
    left_out = {"<i>x</i>": "no <b>values</b> & so on"}
    summary = dataclasses.replace(summary, lines=lines, left_out=left_out)
    tokens = [list(NASTY[: cases.lengths[row]]) for row in SHOWN]
    given = (summary, boards[0], tokens, ("<u>singular", "plural</u>"), SHOWN)
    page = as_leaderboard_page(*given, probabilities=[0.25, 0.5, 0.9871])
    return Made(summary, boards[0], tokens, page)


def test_columns_are_the_numbers_of_the_summary(made):
    columns = line_columns(made.summary)
    finals = made.summary.finals
    assert columns["name"][0] == visible(finals[0].method.name)
    assert columns["place"].tolist() == list(range(1, len(finals) + 1))
    for name, high in MEASURES.items():
        for place, line in enumerate(finals):
            cell = line.cells[name]
            if cell.n == 0:
                assert columns[f"{name}_text"][place] == "n/a"
                assert columns[name][place] == (-np.inf if high else np.inf)
                continue
            assert columns[name][place] == cell.mean
            assert float(columns[f"{name}_text"][place]) == pytest.approx(cell.mean, abs=6e-4)
            spread = columns[f"{name}_spread"][place]
            assert float(spread.removeprefix("±")) == pytest.approx(line.spread[name], abs=6e-4)
            for value in (*cell.ci95, line.spread[name]):
                assert f"{value:.4f}" in columns[f"{name}_more"][place]
        kinds = zip(columns[f"{name}_text"], columns[f"{name}_class"], strict=True)
        best = {float(said) for said, kind in kinds if kind == "best"}
        means = [line.cells[name].mean for line in finals if line.cells[name].n]
        wanted = set() if name in NEUTRAL else {round(max(means) if high else min(means), 3)}
        assert best == wanted, name
    significance = made.summary.significance[made.summary.key]
    np.testing.assert_array_equal(columns["rank"], significance.ranks)
    assert columns["milliseconds"][0] == finals[0].milliseconds


def test_names_of_others_are_text(made):
    """Of tokens and classes it is tested with all pages."""
    reader = Reader(made.page)
    assert {"img", "b title", "i", "u"}.isdisjoint(reader.tags)
    text = "".join(reader.text)
    assert "<i>x</i>: no <b>values</b> & so on" in text
    assert "gold label: <u>singular" in text or "gold label: plural</u>" in text
    assert "its probability 0.987" in text


def test_what_does_not_fit_the_board_is_refused(made):
    def write(tokens=made.tokens, labels=("s", "p"), shown=SHOWN, **options):
        return as_leaderboard_page(made.summary, made.board, tokens, labels, shown, **options)

    for options in (
        {"tokens": [], "shown": []},
        {"shown": SHOWN[:2]},
        {"shown": (30, 0, 7)},
        {"tokens": [made.tokens[0][:-1], *made.tokens[1:]]},
        {"labels": ()},
        {"probabilities": [0.5]},
    ):
        with pytest.raises(InputError, match="must be those of at least one"):
            write(**options)
    other = leaderboard_data.board(made.board.cases, leaderboard_data.methods(5))
    with pytest.raises(InputError, match="board must have every method"):
        as_leaderboard_page(made.summary, other, made.tokens, ("s", "p"), SHOWN)


@pytest.fixture
def view(made, tmp_path):
    file = tmp_path / "leaderboard.html"
    file.write_text(made.page, encoding="utf-8")
    with chromium() as browser:
        opened = View(browser, file, height=1400)
        yield opened
        opened.close()
        assert opened.troubles == []
        assert opened.asked == []


def rows_of(view):
    """The names of the rows that are drawn, from top to bottom."""
    found = view.page.locator(".slick-row .slick-cell.l1").evaluate_all(
        "cells => cells.map(cell => [cell.getBoundingClientRect().top, cell.textContent])"
    )
    return [name for _, name in sorted(found)]


def check_sentences(view, made, name):
    """Every chip has the colour of its share, every measure is that of the board."""
    eventually(lambda: view.page.locator("#method").inner_text() == name)
    board = made.board
    place = next(at for at in board.final() if board.rows[at][0] == name)
    articles = view.page.locator(".sentence")
    assert articles.count() == len(SHOWN)
    for at, (row, words) in enumerate(zip(SHOWN, made.tokens, strict=True)):
        article = articles.nth(at)
        chips = article.locator(".token").evaluate_all(
            "chips => chips.map(chip => [chip.firstChild.textContent, chip.style.background, "
            "chip.style.color, Number(chip.title), Number(chip.lastChild.textContent)])"
        )
        scores = board.scores.values[name][row, -1, : len(words)].astype(float)
        assert [chip[0] for chip in chips] == [visible(word) for word in words]
        for (_, paper, colour, told, short), score, share in zip(
            chips, scores, relative(scores), strict=True
        ):
            assert told == pytest.approx(score, rel=1e-4)
            assert short == pytest.approx(score, rel=0.06)
            found = [int(part) for part in re.findall(r"\d+", paper)]
            assert found == pytest.approx(shade(share), abs=2)
            assert colour == f"rgb{ink(tuple(found))}"
        told = article.locator(".measures b").all_inner_texts()
        for value, measure in zip(told, MEASURES, strict=True):
            expected = board.measures[measure][place, row]
            if np.isnan(expected):
                assert value == "n/a"
            else:
                assert float(value) == pytest.approx(expected, abs=6e-4)


@pytest.mark.browser
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_reader_sorts_filters_and_clicks(view, made):
    columns = line_columns(made.summary)
    names = [visible(line.method.name) for line in made.summary.finals]
    assert rows_of(view)[:6] == names[:6]
    check_sentences(view, made, made.summary.finals[0].method.name)
    title = view.page.locator(".slick-row").locator("span.number[title]").first
    assert title.get_attribute("title") == columns["spearman_blank_out_more"][0]

    def click(name):
        view.page.locator(".slick-cell.l1").filter(has_text=name).first.click()
        view.settle()

    title = re.compile(f"^{re.escape(TITLES['deletion_auc'])}$")
    column = view.page.locator(".slick-header-column", has_text=title)
    column.click(position={"x": 12, "y": 10})
    view.settle()
    order = np.argsort(columns["deletion_auc"], kind="stable")  # low is good
    assert rows_of(view)[:8] == [columns["name"][at] for at in order[:8]]
    click(EVIL.name)  # its name and title are text
    check_sentences(view, made, EVIL.name)
    about = view.page.locator("#about").inner_text()
    assert about == f"{visible(f'{EVIL.title}. {EVIL.source}')} (vectors)"
    assert view.page.locator("img, i, u").count() == 0

    families = {line.method.name: line.method.family for line in made.summary.finals}
    view.page.get_by_label("Family").select_option("baseline")
    view.settle()
    baselines = [method for method, family in families.items() if family == "baseline"]
    assert sorted(rows_of(view)) == sorted(baselines)
    click("position")
    check_sentences(view, made, "position")
    view.page.get_by_label("Family").select_option("all")
    view.page.get_by_label("Method contains").fill("ROLL")
    view.settle()
    assert rows_of(view)
    assert all("roll" in method for method in rows_of(view))
