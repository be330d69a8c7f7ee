"""Test the format of numbers, and tables on consoles of all widths, as Markdown and CSV."""

import io
import math

import pytest
from rich.console import Console

from jaxflow.eval.report import (
    Column,
    Table,
    counts,
    escaped,
    interval,
    mean_std,
    probability,
    short,
)
from jaxflow.eval.stats import Cell

LAYERS = 12
TABLE = Table.of(
    ["method", "family", *(f"layer {layer}" for layer in range(LAYERS))],
    [
        ["column sum", "attention with words", *(layer / 7 for layer in range(LAYERS))],
        ["raw", "none", *(["[-.11, -.09]"] * LAYERS)],
    ],
    styles=["bold", "dim"],
)


def printed(table, width):
    file = io.StringIO()
    table.print(Console(file=file, width=width, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("width", [30, 40, 80, 120, 300])
def test_every_word_and_number_is_whole_at_any_width(width):
    text = printed(TABLE, width)
    assert max(map(len, text.splitlines())) <= width
    for layer in range(LAYERS):
        assert f"{layer / 7:.2f}".removeprefix("0") in text.split()
    assert text.count("[-.11, -.09]") == LAYERS
    parts = text.count("column sum")
    assert parts == text.count("raw") >= 1  # the label comes again in every part
    assert (parts == 1) == (width == 300)


def test_words_break_before_columns_part():
    table = Table.of(
        ["", Column("what it says", text=True), "n"], [["C1", "many words " * 9, 12], ["C2", "", 3]]
    )
    lines = printed(table, 50).splitlines()
    assert lines[0].split() == ["what", "it", "says", "n"]
    assert " ".join(" ".join(lines).split()).count("many") == 9
    assert sum("C1" in line for line in lines) == 1
    assert lines[1].startswith("C1")
    assert lines[1].rstrip().endswith("12")


def test_markdown_and_csv():
    table = Table.of(
        ["", Column("p", lambda p: f"{p:.3f}"), Column("name", text=True, code=True)],
        [["a|b", 0.12345678901234, "x"], ["c", math.nan, None]],
        styles=["bold", ""],
    )
    assert table.to_markdown() == (
        "|  | p | name |\n| --- | ---: | --- |\n| **a\\|b** | 0.123 | `x` |\n| c | nan |  |"
    )
    assert table.to_csv() == ",p,name\na|b,0.123456789012,x\nc,,\n"


def test_text_of_others_is_no_markup():
    table = Table.of(["", "x"], [["*a* | [b] <c>", "1"]])
    assert r"| \*a\* \| \[b] \<c> | 1 |" in table.to_markdown(escaped)


@pytest.mark.parametrize(
    ("value", "text", "signed"),
    [
        (0.694, ".69", "+.69"),
        (-0.11, "-.11", "-.11"),
        (-0.001, ".00", ".00"),
        (0.0, ".00", ".00"),
        (0.996, "1.00", "+1.00"),
        (-1.0, "-1.00", "-1.00"),
        (10.05, "10.05", "+10.05"),
        (math.nan, "n/a", "n/a"),
    ],
)
def test_numbers_are_short(value, text, signed):
    assert (short(value), short(value, sign=True)) == (text, signed)


def test_intervals_probabilities_and_counts():
    assert mean_std(-0.09, 0.52) == "-.09±.52"
    assert interval((-0.1, 1.0)) == "[-.10, 1.00]"
    assert mean_std(math.nan, math.nan) == interval((math.nan, math.nan)) == "n/a"
    shown = [probability(p) for p in (0.0004, 0.023, 1.0, math.nan)]
    assert shown == ["<.001", ".023", "1.000", "n/a"]
    cells = [Cell(0, 0, (0, 0), n, 5 - n) for n in (5, 4)]
    assert (counts(cells, "n"), counts(cells, "nan")) == ("5 4", "0 1")
    assert counts(cells[:1] * 3, "n") == "5"  # one number, or one per layer
