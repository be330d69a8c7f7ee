"""What is printed of masked pronouns: every number, whatever the width, and text as it stands."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from jaxflow.eval.pronouns.agreement import agreement
from jaxflow.eval.pronouns.choice import METHODS, Case
from jaxflow.eval.pronouns.report import case_record, print_pronouns, sections, to_markdown
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


@pytest.fixture(scope="module")
def paper():
    return [case(schema, seed) for seed, schema in enumerate(read_schemas(PAPER))]


@pytest.fixture(scope="module")
def found():
    ties = [("flow", 3), ("flow", 11)]
    return agreement(
        [
            case(schema, seed, ties=ties[: 2 - seed] if seed < 2 else ())
            for seed, schema in enumerate(read_schemas())
        ]
    )


def printed(width, *arguments):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_pronouns(console, *arguments)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_lost_at_any_width(paper, found, width):
    text = printed(width, paper, (), found, 100)
    assert all(len(line) <= width for line in text.splitlines())
    for section in sections(paper, (), found, 100):
        for row in section.lines:
            # The row's label comes once a block of layers; its numbers in order over all of them.
            start = text.index(section.title[:30])
            blocks = re.findall(rf"^{re.escape(row[0])} +(\S.*)$", text[start:], re.MULTILINE)
            numbers = " ".join(blocks).split()
            wanted = list(row[1:])
            windows = [numbers[k : k + len(wanted)] for k in range(len(numbers) - len(wanted) + 1)]
            if row[0] == "95 %":  # which several rows are called
                assert set(wanted) <= set(numbers)
            else:
                assert wanted in windows


def test_the_numbers_are_those_of_the_case_and_the_agreement(paper, found):
    one, *_, same, turned, correlation = sections(paper, (), found, 100)
    assert one.head == ["", *(f"L{layer}" for layer in range(1, 13))]
    assert [row[0] for row in one.lines] == [
        f"{method}, {name}" for method in METHODS for name in paper[0].schema.referents
    ]
    for place, row in enumerate(one.lines):
        weights = paper[0].weights[METHODS[place // 2]][:, place % 2]
        assert [float(number) for number in row[1:]] == pytest.approx(weights, abs=5e-4)
    for section, rows in ((same, found.sentences), (turned, found.turned)):
        for method, row in zip(METHODS, section.lines[::2], strict=True):
            shares = [cell.share for cell in rows.methods[method]]
            assert [float(number) for number in row[1:]] == pytest.approx(shares, abs=5e-3)
        for name in ("column sum of A[1]", "nearest to the mask", "first in the sentence"):
            assert name in section.text
    rhos = [cell.rho for cell in found.correlations["flow"]]
    assert [float(number) for number in correlation.lines[4][1:]] == pytest.approx(rhos, abs=5e-3)
    assert "100 sentences. The model prefers the referent that stands first in" in same.text
    assert f"of {found.model_intended.n} that have one" in same.text
    assert f"{found.turned.baselines['first'].n} pairs in which" in turned.text


def test_ties_are_said_where_there_are_any(found, paper):
    *_, same, _, _ = sections(paper, (), found, 100)
    assert "Ties, left out of the shares: flow L4 2, L12 1." in same.text
    without = agreement([case(schema, seed) for seed, schema in enumerate(read_schemas())])
    *_, same, _, _ = sections(paper, (), without, 100)
    assert same.text.endswith("No ties.")


def test_undecided_sentences_are_said(paper):
    even = case(read_schemas()[0], log_probabilities=(-2.0, -2.0))
    every = [even, case(read_schemas()[1])]
    *_, same, _, _ = sections(paper, (), agreement(every), 2)
    assert "both pronouns are equally probable in 1, which are left out" in same.text


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (math.log(0.5), math.log(0.25), "his (author) .500, her (Sara) .250; between the two .67"),
        (-20.0, -1000.0, "his (author) 2.1e-09, her (Sara) 0.0e+00; between the two 1.00 and .00"),
    ],
)
def test_small_probabilities_keep_their_size(first, second, text):
    each = case(read_schemas(PAPER)[0], log_probabilities=(first, second))
    one, *_ = sections([each], (), agreement([each]), 1)
    assert text in one.text


def test_markdown_takes_sentences_as_text(found, paper):
    schema = Schema("A|nn *met* <b>Paul</b> near [MASK] car.", ("A|nn", "Paul"), ("her", "his"))
    page = to_markdown(paper, [case(schema)], found, 100, {"model": "x"})
    assert r"## A\|nn \*met\* \<b>Paul\</b> near \[MASK] car." in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {LAYERS + 2}


def test_a_record_holds_the_whole_case(paper):
    (author, love) = map(case_record, paper)
    assert author["referents"] == ("author", "Sara")
    assert author["intended"] is None
    assert love["log_odds"] == pytest.approx(np.subtract(*paper[1].log_probabilities))
    np.testing.assert_array_equal(love["weights"]["flow"], paper[1].weights["flow"])
    turning = case_record(case(read_schemas()[1]))
    assert turning["intended"] == turning["referents"][1]
