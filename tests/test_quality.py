"""Run the linters and type checkers as configured."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wheel

pytestmark = pytest.mark.quality
FOLDERS = (*wheel.PACKAGES, "examples", "tests")


def run(tool: str, *arguments: str, cwd: Path, **environment: str) -> None:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: pip install 'jaxflow[test]'")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"


def test_ruff_check() -> None:
    run("ruff", "check", "--no-cache", *FOLDERS, cwd=wheel.ROOT)


def test_ruff_format() -> None:
    run("ruff", "format", "--no-cache", "--check", *FOLDERS, cwd=wheel.ROOT)


def test_mypy_on_the_wheel(tmp_path: Path) -> None:
    configuration = ["--config-file", str(wheel.ROOT / "pyproject.toml")]
    cache = ["--cache-dir", str(tmp_path / "cache")]
    run(
        "mypy",
        *configuration,
        *cache,
        "-p",
        "jaxflow",
        cwd=tmp_path,
        MYPYPATH=str(wheel.installed()),
    )
