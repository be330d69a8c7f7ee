"""Test an installation without extras, and its errors for missing packages."""

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


def metadata():
    """The wheel's METADATA."""
    (folder,) = wheel.installed().glob("*.dist-info")
    return (folder / "METADATA").read_text(encoding="utf-8")


def requirements(distribution):
    """Names of what a distribution needs here without extras."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in importlib.metadata.requires(distribution) or []]
    return [
        each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})
    ]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
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


def run(core, code, *words):
    code = f"import sys; sys.path.insert(0, {str(core)!r}); {code}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-I", "-S", "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=core)


def test_the_array_functions_need_the_core_only(core):
    done = run(
        core,
        """
import numpy, jaxflow
attention = numpy.full((2, 1, 3, 3), 1 / 3)
print(jaxflow.rollout(attention)[-1].sum(), jaxflow.attention_graph(attention).number_of_nodes())
""",
    )
    assert done.returncode == 0, done.stderr
    total, nodes = map(float, done.stdout.split())
    assert (total, nodes) == (pytest.approx(3), 9)


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["explain", "the keys"], "models"), (["train", "--out", "run"], "train")],
)
def test_a_command_names_the_extra_that_it_lacks(core, words, extra):
    code = "from jaxflow.commands import main; sys.exit(main(sys.argv[1:]))"
    done = run(core, code, *words)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'jaxflow[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_explain_names_the_extra_that_it_lacks(core):
    done = run(core, "import jaxflow; jaxflow.explain('the keys')")
    assert "InputError: explain needs the package flax" in done.stderr
    assert "pip install 'jaxflow[models]'" in done.stderr


def test_every_extra_is_there():
    offered = re.findall(r"^Provides-Extra: (\w+)$", metadata(), re.MULTILINE)
    assert set(EXTRAS) <= set(offered)
