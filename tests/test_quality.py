"""Run the linter as configured; `test_types` runs mypy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import wheel

pytestmark = pytest.mark.quality


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command: list[str]) -> None:
    pytest.importorskip("ruff", reason="pip install 'jaxflow[test]'")
    arguments = [*command, "--no-cache", *wheel.PACKAGES, "examples", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], cwd=wheel.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"
