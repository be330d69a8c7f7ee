"""Test that the script for accelerators runs on a CPU, and sees an error that is too large."""

from __future__ import annotations

import json

import pytest

from tests.device import __main__ as device


@pytest.mark.nightly
def test_the_script_runs_in_its_small_form(tmp_path, capsys):
    assert device.main(["--small", "--out", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert len(rows) == 11
    assert all(row["error"] <= row["limit"] for row in rows if row["limit"])
    assert "| rollout |" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "good"), [(1e-6, True), (1e-3, False), (float("nan"), False)])
def test_an_error_above_its_limit_is_seen(error, good):
    assert device.Row("", None, 1.0, 1.0, error, device.EXACT).good == good
