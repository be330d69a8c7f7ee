"""Test an installation without extras, and its errors for missing packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wheel

HARD_DEPENDENCIES = 8
EXTRAS = ("models", "train", "plots", "all", "test", "docs")


def metadata() -> str:
    """The wheel's METADATA."""
    (folder,) = wheel.installed().glob("*.dist-info")
    return (folder / "METADATA").read_text(encoding="utf-8")


def requirements(distribution: str) -> list[str]:
    """Names of what a distribution needs here without extras."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in importlib.metadata.requires(distribution) or []]
    return [
        each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})
    ]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the wheel and its hard dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("core")
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", metadata(), re.MULTILINE)
    assert len(lines) <= HARD_DEPENDENCIES
    waiting, seen = list(lines), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += requirements(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            place = folder / top
            if not place.exists() and top != "__pycache__":
                place.symlink_to(Path(str(distribution.locate_file(top))))
    (folder / "jaxflow").symlink_to(wheel.installed() / "jaxflow")
    return folder


def run(core: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path.insert(0, {str(core)!r}); "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + arguments[0], *arguments[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=core,
    )


def test_the_array_functions_need_the_core_only(core: Path) -> None:
    code = """
import numpy, jaxflow
attention = numpy.full((2, 1, 3, 3), 1 / 3)
print(jaxflow.rollout(attention)[-1].sum(), jaxflow.attention_graph(attention).number_of_nodes())
"""
    done = run(core, code)
    assert done.returncode == 0, done.stderr
    total, nodes = done.stdout.split()
    assert float(total) == pytest.approx(3)
    assert int(nodes) == 9


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["explain", "the keys"], "models"), (["train", "--out", "run"], "train")],
)
def test_a_command_names_the_extra_that_it_lacks(core: Path, words: list[str], extra: str) -> None:
    code = "from jaxflow.commands import main; sys.exit(main(sys.argv[1:]))"
    done = run(core, code, *words)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'jaxflow[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_extra_is_there() -> None:
    offered = re.findall(r"^Provides-Extra: (\w+)$", metadata(), re.MULTILINE)
    assert set(EXTRAS) <= set(offered)
