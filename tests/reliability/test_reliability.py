"""Test that the page shows the counts."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numeric_limits
import pytest
from faulting.trials import KINDS
from fuzzing.harness import FAULTS
from reliability_page import CAMPAIGNS, as_page, shortened

ROOT = Path(__file__).parents[2]
TALLY = {"tried": 10, "struck": 9, "survived": 7, "told": ["kill train 3: lost"]}
READER = {
    "cases": 1000, "accepted": 300, "refused": 699, "slowest": 0.1, "told": [{"detail": "x"}],
    "faults": {**dict.fromkeys(FAULTS, 0), "crash": 1},
}  # fmt: skip
FOUND = {
    "fuzz": {
        "readers": {"a reader": READER},
        "asked": 5000,
        "total": {"cases": 1000, "accepted": 300, "refused": 699, **READER["faults"]},
    },
    "faults": {
        "faults": {"kill": {"train": TALLY, "evaluate": TALLY}},
        "damages": {"tried": 50, "cut": 20, "flip": 30, "wrong": ["a, cut at 0: not seen"]},
        "asked": {"kill": 20, "disk": 10},
        "finished": False,
    },
    "numbers": {
        "rounding": [
            {"dtype": "float32", "layers": 6, "tokens": 9,
             "rollout": {"off": 2.1e-7, "bound": 2.4e-5}, "flow": {"off": 1.1e-8, "bound": 1.2e-7}}
        ],
        "large": {"tokens": 4096, "bytes": 10**9, "taken": 18 * 10**8, "error": 3e-6,
                  "refusal": "flow may take up to 5 days"},
        "pythons": ["3.11.7", "3.13.0"],
        "digests": {"rollout": ["a"], "flow on one thread": ["b", "c"]},
        "threads": False,
        "machine": "x86_64",
    },
}  # fmt: skip


def test_what_was_lost_is_on_the_page():
    page = as_page(FOUND)
    assert "| faults in whole commands | 20 | 14 | 6 |" in page
    assert "| damaged checkpoints | 50 | 49 | 1 |" in page
    assert "| malicious files | 1,000 | 999 | 1 |" in page
    assert f"| {KINDS['kill'][0]} | train | 10 | 9 | 7 |" in page
    assert "made 1,000 of 5,000 cases so far" in page
    assert "In 49 of 50 cases" in page
    assert "made 20 trials so far, of at least 30." in page
    whole = {**FOUND, "faults": {**FOUND["faults"], "finished": True}}
    assert "trials so far" not in as_page(whole)


def test_numbers_that_differ_are_on_the_page():
    page = as_page(FOUND)
    assert "| float32 | 6 | 9 | 2.1e-07 | 2.4e-05 | 1.1e-08 | 1.2e-07 |" in page
    assert "needs 1.8 times the 1.0 GB" in page
    assert "“flow may take up to 5 days”" in page
    assert "On Python 3.11.7, 3.13.0 (x86_64) 1 of 2 results are the same" in page
    assert "One thread and two threads give different bits." in page


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


def test_accounts_of_single_cases_are_not_kept():
    kept = shortened(FOUND["faults"])
    assert kept["faults"]["kill"]["train"] == {"tried": 10, "struck": 9, "survived": 7}
    assert "told" not in json.dumps(shortened(FOUND["fuzz"]))


def test_the_page_is_made_of_the_counts_beside_it():
    counts = json.loads((ROOT / "docs" / "reliability.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == as_page(counts)


def test_the_command(tmp_path, monkeypatch):
    out = tmp_path / "page.md"
    for name in CAMPAIGNS:
        (tmp_path / name).write_text(json.dumps(FOUND[name]))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["reliability", "--out", str(out), *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "tests" / "reliability" / "__main__.py"), run_name="__main__")
        return caught.value.code

    assert command("--fuzz", tmp_path / "fuzz") == 2  # nothing is known of faults
    assert not out.exists()
    given = [part for name in CAMPAIGNS for part in (f"--{name}", tmp_path / name)]
    assert command(*given) == 0
    page = out.read_text()
    assert page == as_page(FOUND)
    assert command() == 0  # from what is stored
    assert out.read_text() == page
