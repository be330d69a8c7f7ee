"""Test that counts get onto the page, and that errors of numbers are within their bounds."""

from __future__ import annotations

from pathlib import Path

import counting
import numeric_limits
import pytest
from faulting import KINDS
from fuzzing.harness import FAULTS
from reliability_page import as_parts

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
TALLY = {"tried": 1000, "struck": 9, "survived": 7}
READER = {"cases": 1000, "accepted": 300, "refused": 699, "slowest": 0.1} | dict.fromkeys(FAULTS, 0)
BOUNDS = {"rollout": {"off": 2.1e-7, "bound": 2.4e-5}, "flow": {"off": 1.1e-8, "bound": 1.2e-7}}
COUNTS = {
    "fuzz": {"commit": "abc", "readers": {"a reader": READER | {"crash": 1}}},
    "faults": {
        "commit": "abc",
        "faults": {"kill": {"train": TALLY, "evaluate": TALLY}},
        "damages": {"tried": 50, "cut": 20, "flip": 30, "wrong": ["a, cut at 0: not seen"]},
    },
    "numbers": {
        "commit": "abc",
        "rounding": [{"dtype": "float32", "layers": 6, "tokens": 9, **BOUNDS}],
        "large": {"tokens": 4096, "bytes": 10**9, "taken": 18 * 10**8, "error": 3e-6,
                  "refusal": "flow may take up to 5 days"},
        "pythons": ["3.11.7", "3.13.0"],
        "digests": {"rollout": ["a"], "flow on one thread": ["b", "c"]},
        "threads": False,
        "machine": "x86_64",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        f"| {KINDS['kill'][0]} | train | 1,000 | 9 | 7 |",
        "| all |  | 2,000 | 18 | 14 |",
        "In 49 of 50 cases",
        "1,000 files, 1 failed.",
        "| a reader | 1,000 | 300 | 699 | 1 | 0 | 0 | 0 | 0 | 0.10 |",
        "| float32 | 6 | 9 | 2.1e-07 | 2.4e-05 | 1.1e-08 | 1.2e-07 |",
        "needs 1.8 times the 1.0 GB",
        "“flow may take up to 5 days”",
        "On Python 3.11.7, 3.13.0 (x86_64) 1 of 2 results are the same",
        "One thread and two threads give different bits.",
        "Counted at commit abc.",
        "## Limits",
    ],
)
def test_what_was_counted_is_on_the_page(line):
    page = counting.fill(PAGE, as_parts(COUNTS))
    assert line in page
    assert "Counted at commit d1a5851" not in page


@pytest.mark.nightly
def test_measurements_are_within_their_bounds(monkeypatch):
    monkeypatch.setattr(numeric_limits, "SIZES", ((1, 1), (6, 9)))
    found = numeric_limits.measure(tokens=300)
    for row in found["rounding"]:
        for name in ("rollout", "flow"):
            assert row[name]["off"] <= row[name]["bound"]
    assert {row["dtype"] for row in found["rounding"]} == {"float32", "bfloat16", "float16"}
    assert found["threads"]
    assert all(len(digests) == 1 for digests in found["digests"].values())
