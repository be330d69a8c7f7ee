"""The Markdown document against a golden file made of chosen numbers."""

import math
from pathlib import Path

from jaxflow.eval.paper.claims import DOES_NOT_HOLD, NOT_DECIDED, Claim
from jaxflow.eval.paper.markdown import to_markdown
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS
from jaxflow.eval.paper.tables import Tables
from jaxflow.eval.stats import Cell

GOLDEN = Path(__file__).parent / "golden_tables.md"
NAN = math.nan


def row(start, layers):
    means = [start + layer / 10 for layer in range(layers)]
    return tuple(Cell(mean, 0.25, (mean - 0.02, mean + 0.02), 9, 0) for mean in means)


def tables(layers):
    starts = dict(zip(ROWS, (-0.3, 0.1, 0.32, 0.4, -0.001, 0.5), strict=True))
    correlations = {t: {name: row(starts[name], layers) for name in ROWS} for t in TARGETS}
    undefined = Cell(NAN, NAN, (NAN, NAN), 0, 9)
    correlations["gradient"]["raw"] = (*correlations["gradient"]["raw"][:-1], undefined)
    return Tables(correlations, row(0.1, layers), {n: row(0.2, layers) for n in ENTROPY_ROWS}, 9)


CLAIMS = (
    Claim("C1", "raw falls", "blank_out", DOES_NOT_HOLD, -0.4, (-0.5, -0.3), 1e-9, 2e-9, 9, "So."),
    Claim("C4", "flow spreads", None, NOT_DECIDED, NAN, (NAN, NAN), NAN, NAN, 1, "One only."),
)


def test_the_document_is_the_golden_one():
    document = to_markdown(
        tables(6),
        claims=CLAIMS,
        accuracy={"overall": 0.971, "by attractors": {"0": 0.98}, "sentences": 12},
        accuracy_by_split={
            "test": {"accuracy": 0.971, "n": 12, "too_long": 0},
            "test.5": {"accuracy": NAN, "n": 0},
        },
        config={"seed": 0},
        versions={"jax": "0.10.0"},
    )
    assert document == GOLDEN.read_text(encoding="utf-8")


def test_another_depth_is_not_compared_and_says_so():
    document = to_markdown(tables(4))
    assert "No comparison with the paper: its model has 6 layers, this one has 4." in document
    assert "| paper |" not in document
    assert "difference" not in document
    assert "| L4 |" in document
    assert "L5" not in document
    assert "## Claims" not in document


def test_every_line_of_a_table_has_as_many_cells_as_its_head():
    for layers in (1, 6, 13):
        blocks = to_markdown(tables(layers), claims=CLAIMS).split("\n\n")
        grids = [block.split("\n") for block in blocks if block.startswith("|")]
        assert len(grids) == 11
        for grid in grids:
            assert {line.count("|") for line in grid} == {grid[0].count("|")}
