"""Test the report and the figures on masked pronouns: every number, at any width, and text."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pictures
import pytest
from matplotlib.colors import to_hex
from pronoun_data import made_case
from rich.console import Console

from jaxflow.eval.plots.pronouns import REFERENTS, draw_pronoun_agreement, draw_referents
from jaxflow.eval.plots.style import LOOKS
from jaxflow.eval.pronouns.cases import METHODS, agreement
from jaxflow.eval.pronouns.report import Study, case_record, markdown, print_study, sections
from jaxflow.eval.pronouns.schemas import PAPER, Schema, read_schemas

LAYERS = 12


def study_of(cases, paper=(), own=()):
    return Study(tuple(paper), tuple(own), tuple(cases), agreement(cases), {})


@pytest.fixture(scope="module")
def done():
    cases, paper = (
        [made_case(schema, layers=LAYERS, seed=seed) for seed, schema in enumerate(schemas)]
        for schemas in (read_schemas(), read_schemas(PAPER))
    )
    for each, layers in zip(cases, ([3, 11], [3]), strict=False):
        each.weights["flow"][layers] = 0.25
    return study_of(cases, paper)


@pytest.mark.parametrize("width", [40, 200])
def test_no_number_is_lost_at_any_width(done, width):
    console = Console(file=io.StringIO(), width=width)
    print_study(console, done)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    words = text.split()
    for section in sections(done):
        for row in section.table.texts():
            assert set(row[1:]) <= set(words)
        assert " ".join(section.title.split()) in " ".join(words)


def test_the_numbers_are_those_of_the_case_and_the_agreement(done):
    found, paper = done.found, done.paper
    one, *_, same, turned, correlation = sections(done)
    titles = [column.title for column in one.table.columns]
    assert titles == ["", *(f"L{layer}" for layer in range(1, 13))]
    rows = one.table.texts()
    assert [row[0] for row in rows] == [
        f"{method}, {name}" for method in METHODS for name in paper[0].schema.referents
    ]
    for place, row in enumerate(rows):
        weights = paper[0].weights[METHODS[place // 2]][:, place % 2]
        assert [float(number) for number in row[1:]] == pytest.approx(weights, abs=5e-4)
    for section, shown in ((same, found.sentences), (turned, found.turned)):
        for method, row in zip(METHODS, section.table.texts()[::2], strict=True):
            shares = [cell.share for cell in shown.methods[method]]
            assert [float(number) for number in row[1:]] == pytest.approx(shares, abs=5e-3)
        for name in ("column sum of A[1]", "nearest to the mask", "first in the sentence"):
            assert name in section.text
    rhos = [cell.rho for cell in found.correlations["flow"]]
    shown = [float(number) for number in correlation.table.texts()[4][1:]]
    assert shown == pytest.approx(rhos, abs=5e-3)
    assert "100 sentences. The model prefers the referent that stands first in" in same.text
    assert f"of {found.model_intended.n} that have one" in same.text
    assert f"{found.turned.baselines['first'].n} pairs in which" in turned.text


def test_ties_and_undecided_sentences_are_counted(done):
    *_, same, _, _ = sections(done)
    assert "Ties, left out of the shares: flow L4 2, L12 1." in same.text
    even = made_case(log_probabilities=(-2.0, -2.0))
    *_, same, _, _ = sections(study_of([even, made_case()]))
    assert "both pronouns are equally probable in 1, which are left out" in same.text
    assert same.text.endswith("No ties.")


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (math.log(0.5), math.log(0.25), "his (author) .500, her (Sara) .250; between the two .67"),
        (-20.0, -1000.0, "his (author) 2.1e-09, her (Sara) 0.0e+00; between the two 1.00 and .00"),
    ],
)
def test_small_probabilities_keep_their_size(first, second, text):
    each = made_case(read_schemas(PAPER)[0], log_probabilities=(first, second))
    one, *_ = sections(study_of([each], [each]))
    assert text in one.text


def test_markdown_takes_sentences_as_text(done):
    schema = Schema("A|nn *met* <b>Paul</b> near [MASK] car.", ("A|nn", "Paul"), ("her", "his"))
    page = markdown(
        study_of(done.cases, done.paper, [made_case(schema, layers=LAYERS)]), {"model": "x"}
    )
    assert r"## A\|nn \*met\* \<b>Paul\</b> near \[MASK] car." in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {LAYERS + 2}


def test_a_record_holds_the_whole_case(done):
    (author, love) = map(case_record, done.paper)
    assert author["referents"] == ("author", "Sara")
    assert author["intended"] is None
    assert love["log_odds"] == pytest.approx(np.subtract(*done.paper[1].log_probabilities))
    np.testing.assert_array_equal(love["weights"]["flow"], done.paper[1].weights["flow"])
    turning = case_record(made_case(read_schemas()[1]))
    assert turning["intended"] == turning["referents"][1]


def bars_of(axes):
    """Colour -> (centre, height) of its bars, left to right."""
    found = {}
    for bar in axes.patches:
        colour = to_hex(bar.get_facecolor()).upper()
        found.setdefault(colour, []).append(
            (bar.get_x() + bar.get_width() / 2, float(bar.get_height()))
        )
    return found


@pytest.mark.parametrize("layers", [1, 12, 30])
def test_bars_are_probabilities_and_weights(layers):
    schemas = enumerate(read_schemas(PAPER))
    cases = [made_case(schema, layers=layers, seed=seed) for seed, schema in schemas]
    figure = draw_referents(cases)
    assert len(figure.axes) == 4 * len(cases)
    colours = [colour for colour, _ in REFERENTS]
    for row, each in enumerate(cases):
        model, *panels = figure.axes[4 * row : 4 * row + 4]
        heights = [bars_of(model)[colour][0][1] for colour in colours]
        assert heights == pytest.approx(each.probabilities)
        assert [label.get_text() for label in model.get_xticklabels()] == list(each.schema.fillers)
        for axes, method in zip(panels, METHODS, strict=True):
            for which, colour in enumerate(colours):
                places, heights = zip(*bars_of(axes)[colour], strict=True)
                assert heights == pytest.approx(each.weights[method][:, which])
                assert np.round(places).tolist() == list(range(1, layers + 1))
            assert axes.get_ylim()[0] == 0
            assert axes.get_ylim()[1] > each.weights[method].max()
            assert axes.get_xticks()[0] == layers
        names = [text.get_text() for text in panels[-1].get_legend().get_texts()]
        pairs = zip(each.schema.referents, each.schema.fillers, strict=True)
        assert names == [f"{name} ({filler})" for name, filler in pairs]


def test_agreement_is_lines_with_intervals_and_baselines(done):
    found = done.found
    figure = draw_pronoun_agreement(found)
    tables = ((found.sentences, 0.5), (found.turned, 0.25))
    for axes, (rows, chance) in zip(figure.axes, tables, strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        for name, shares in rows.methods.items():
            means, intervals = [each.share for each in shares], [each.ci95 for each in shares]
            colour = pictures.check_line(axes, LOOKS[name].title, means, intervals)
            assert colour == LOOKS[name].colour.upper()
        for label, name in (
            ("column sum", "column_sum"), ("nearest", "nearest"), ("first", "first")
        ):  # fmt: skip
            assert set(lines[label].get_ydata()) == {rows.baselines[name].share}
        assert set(lines["chance"].get_ydata()) == {chance}
    assert "pairs" in figure.axes[1].get_ylabel()
