"""Builds the wheel once for all tests that look at what users will install."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("jaxflow", "models", "train", "eval")


def build(folder: Path) -> Path:
    """Build a copy of the tree, so that nothing is left behind in it, and return the wheel."""
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ROOMS:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.suffix in (".toml", ".md") or path.name == "LICENSE":
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    major = int(importlib.metadata.version("setuptools").split(".")[0]) if _has_setuptools() else 0
    if major >= 77:  # what pyproject.toml asks for is here: no need to download it
        command.append("--no-isolation")
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    return wheel


def _has_setuptools() -> bool:
    try:
        importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def installed() -> Path:
    """Return a folder with the installed package: a pure wheel is installed by unpacking it."""
    folder = Path(tempfile.mkdtemp(prefix="jaxflow-wheel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "site"
    with zipfile.ZipFile(build(folder)) as wheel:
        wheel.extractall(target)
    return target
