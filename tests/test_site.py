"""The documentation site: built with warnings as errors, the tutorial executed on the way."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wheel

ROOT = wheel.ROOT
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter", "ipykernel")

pytestmark = [pytest.mark.site, pytest.mark.nightly]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}; pip install 'jaxflow[docs]'")
    folder = tmp_path_factory.mktemp("site")
    # Code that is compiled for tests only, without optimisation, would train for long.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # The reference is read from files, which an editable installation has not in one place.
    environment |= {"PYTHONPATH": str(wheel.installed())}
    environment |= {"NO_MKDOCS_2_WARNING": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        name = name.parent if name.name in ("index", "README") else name
        assert (site / name / "index.html").is_file(), name


def test_the_tutorial_was_executed(site: Path) -> None:
    page = (site / "tutorial" / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "[CLS]" in page
    assert "Table 1" in page


def test_the_reference_comes_from_the_docstrings(site: Path) -> None:
    page = (site / "api" / "flow" / "index.html").read_text(encoding="utf-8")
    assert "jaxflow.flow_cut" in page
    assert "Exact attention flow" in page
    assert "Raises" in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in page
    assert "agreement-gradient-norm.svg" in page
