"""The leaderboard on terminals of all widths."""

from __future__ import annotations

import io

import leaderboard_data
import pytest
from rich.console import Console

from jaxflow.eval.leaderboard.report import SHORT, print_summary
from jaxflow.eval.leaderboard.summary import TITLES


@pytest.mark.parametrize("width", [64, 80, 120])
def test_a_narrow_terminal_shows_whole_columns_and_names_the_others(width):
    summary = leaderboard_data.summary([leaderboard_data.board()])
    file = io.StringIO()
    print_summary(Console(file=file, width=width, highlight=False), summary)
    text = file.getvalue()
    head = next(line for line in text.splitlines() if "method" in line)
    assert max(len(line) for line in text.splitlines() if not line.startswith("…")) <= width
    titles = [*(TITLES[name] for name in SHORT), "ms/1,000"]
    there = [title for title in titles if title in head]
    assert there == titles[: len(there)]
    assert there
    rest = [title for title in titles if title not in there]
    assert (f"… {', '.join(rest)} on" in " ".join(text.split())) == bool(rest)
