"""Build the documentation site with warnings as errors, executing the tutorial."""

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


@pytest.mark.nightly
def test_the_site_is_built_with_the_tutorial_executed(tmp_path: Path) -> None:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}; pip install 'jaxflow[docs]'")
    # Code that is compiled for tests only, without optimisation, would train for long.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # The reference is read from files, which an editable installation has not in one place.
    environment |= {"PYTHONPATH": str(wheel.installed())}
    environment |= {"NO_MKDOCS_2_WARNING": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    command = ["-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        name = name.parent if name.name in ("index", "README") else name
        assert (tmp_path / name / "index.html").is_file(), name

    def text(page: str) -> str:
        return (tmp_path / page / "index.html").read_text(encoding="utf-8")

    for part in ("data:image/png;base64,", "[CLS]", "Table 1"):
        assert part in text("tutorial")
    for part in ("jaxflow.flow_cut", "Return exact attention flow", "Raises"):
        assert part in text("api/flow")
    assert "agreement-blank-out.svg" in text("")
    assert "fonts.googleapis" not in text("")  # nothing is fetched from elsewhere
