"""Build the sdist and the wheel of this tree once a session, and unpack the wheel."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from session import once_a_session

ROOT = Path(__file__).parents[2]
PACKAGES = ("jaxflow", "models", "train", "eval")


def _build(folder: Path) -> None:
    """Build a copy of the tree, so that nothing is left behind in it; keep what was printed."""
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.suffix in (".toml", ".md", ".in", ".cff") or path.name == "LICENSE":
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
    try:  # what pyproject.toml asks for may be here: no need to download it
        if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
            command.append("--no-isolation")
    except importlib.metadata.PackageNotFoundError:
        pass
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (folder / "build.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")


def built() -> Path:
    """Return a folder with ``*.whl``, ``*.tar.gz``, ``build.log`` and the wheel as ``site/``."""
    return once_a_session("wheel", _build)


def installed() -> Path:
    """Return a folder with the installed package: a pure wheel is installed by unpacking it."""
    return built() / "site"
