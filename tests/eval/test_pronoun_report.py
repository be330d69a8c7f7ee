"""Test the report on masked pronouns: every number, at any console width, text unchanged."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from jaxflow.eval.pronouns.cases import METHODS, Case, agreement
from jaxflow.eval.pronouns.report import Study, case_record, markdown, print_study, sections
from jaxflow.eval.pronouns.schemas import PAPER, Schema, read_schemas

LAYERS = 12


def case(schema, seed=0, log_probabilities=None, ties=()):
    rng = np.random.default_rng(seed)
    weights = {name: rng.random((LAYERS, 2)) for name in METHODS}
    for method, layer in ties:
        weights[method][layer] = 0.25
    drawn = tuple(np.log(rng.dirichlet(np.ones(3))[:2]).tolist())
    return Case(
        schema=schema,
        tokens=("[MASK]",),
        pieces=(1, 2),
        log_probabilities=log_probabilities or drawn,
        weights=weights,
        column_sums=rng.random(2),
        distances=(5, 2),
    )


def study_of(cases, paper=(), own=()):
    return Study(tuple(paper), tuple(own), tuple(cases), agreement(cases), {})


@pytest.fixture(scope="module")
def done():
    ties = [("flow", 3), ("flow", 11)]
    cases = [
        case(schema, seed, ties=ties[: 2 - seed] if seed < 2 else ())
        for seed, schema in enumerate(read_schemas())
    ]
    return study_of(cases, [case(schema, seed) for seed, schema in enumerate(read_schemas(PAPER))])


@pytest.mark.parametrize("width", [40, 80, 200])
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
    assert [column.title for column in one.table.columns] == [
        "",
        *(f"L{layer}" for layer in range(1, 13)),
    ]
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
    assert [float(number) for number in correlation.table.texts()[4][1:]] == pytest.approx(
        rhos, abs=5e-3
    )
    assert "100 sentences. The model prefers the referent that stands first in" in same.text
    assert f"of {found.model_intended.n} that have one" in same.text
    assert f"{found.turned.baselines['first'].n} pairs in which" in turned.text


def test_ties_and_undecided_sentences_are_counted(done):
    *_, same, _, _ = sections(done)
    assert "Ties, left out of the shares: flow L4 2, L12 1." in same.text
    even = case(read_schemas()[0], log_probabilities=(-2.0, -2.0))
    *_, same, _, _ = sections(study_of([even, case(read_schemas()[1])]))
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
    each = case(read_schemas(PAPER)[0], log_probabilities=(first, second))
    one, *_ = sections(study_of([each], [each]))
    assert text in one.text


def test_markdown_takes_sentences_as_text(done):
    schema = Schema("A|nn *met* <b>Paul</b> near [MASK] car.", ("A|nn", "Paul"), ("her", "his"))
    page = markdown(study_of(done.cases, done.paper, [case(schema)]), {"model": "x"})
    assert r"## A\|nn \*met\* \<b>Paul\</b> near \[MASK] car." in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {LAYERS + 2}


def test_a_record_holds_the_whole_case(done):
    (author, love) = map(case_record, done.paper)
    assert author["referents"] == ("author", "Sara")
    assert author["intended"] is None
    assert love["log_odds"] == pytest.approx(np.subtract(*done.paper[1].log_probabilities))
    np.testing.assert_array_equal(love["weights"]["flow"], done.paper[1].weights["flow"])
    turning = case_record(case(read_schemas()[1]))
    assert turning["intended"] == turning["referents"][1]
