"""Test the format of numbers."""

import math

import pytest

from jaxflow.eval.report.text import counts, interval, mean_std, probability, short
from jaxflow.eval.stats import Cell


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
def test_short(value, text, signed):
    assert short(value) == text
    assert short(value, sign=True) == signed


def test_cells():
    assert mean_std(-0.09, 0.52) == "-.09±.52"
    assert mean_std(math.nan, math.nan) == "n/a"
    assert interval((-0.1, 1.0)) == "[-.10, 1.00]"
    assert interval((math.nan, math.nan)) == "n/a"


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "<.001"), (0.023, ".023"), (1.0, "1.000"), (math.nan, "n/a")]
)
def test_probability(p, text):
    assert probability(p) == text


def test_counts_are_one_number_or_one_per_layer():
    cells = [Cell(0, 0, (0, 0), n, 5 - n) for n in (5, 4)]
    assert counts(cells, "n") == "5 4"
    assert counts(cells, "nan") == "0 1"
    assert counts(cells[:1] * 3, "n") == "5"
