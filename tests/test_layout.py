"""The layout is the contract: one top-level package, rooms in one direction, names as promised."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wheel

import jaxflow

ROOT = wheel.ROOT
EMPTY = inspect.Parameter.empty

# Where a room may look, besides at itself.
MAY_IMPORT = {
    "jaxflow": set(),
    "jaxflow.models": {"jaxflow"},
    "jaxflow.train": {"jaxflow", "jaxflow.models"},
    "jaxflow.eval": {"jaxflow", "jaxflow.models", "jaxflow.train"},
}
HEAVY = (
    "numba",
    "networkx",
    "matplotlib",
    "tensorflow_datasets",
    "orbax",
    "safetensors",
    "grain",
    "flax",
    "optax",
    "tyro",
    "rich",
    "bokeh",
)


def outside(code: str, cwd: Path) -> str:
    """Run code against the unpacked wheel, from a folder that has nothing to do with it."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(wheel.installed())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheels_only_top_level_package_is_jaxflow() -> None:
    names = {path.name for path in wheel.installed().iterdir()}
    (metadata,) = {name for name in names if name.endswith(".dist-info")}
    assert names - {metadata} == {"jaxflow"}
    assert (wheel.installed() / metadata / "top_level.txt").read_text().split() == ["jaxflow"]
    scripts = (wheel.installed() / metadata / "entry_points.txt").read_text()
    assert "jaxflow = jaxflow.commands:main" in scripts


def test_the_wheel_holds_every_file_of_the_rooms() -> None:
    expected = set()
    for room in wheel.ROOMS:
        package = Path("jaxflow") if room == "jaxflow" else Path("jaxflow") / room
        for path in (ROOT / room).rglob("*"):
            data = (ROOT / "models" / "shipped", ROOT / "eval" / "schemas")
            shipped = path.is_file() and any(path.is_relative_to(folder) for folder in data)
            if path.suffix == ".py" or path.name == "py.typed" or shipped:
                expected.add(package / path.relative_to(ROOT / room))
    site = wheel.installed()
    packed = {path.relative_to(site) for path in site.glob("jaxflow/**/*") if path.is_file()}
    assert {path for path in packed if path.suffix != ".pyc"} == expected


def test_the_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    code = """
import numpy, jaxflow, jaxflow.commands, jaxflow.models, jaxflow.train, jaxflow.eval
for module in (jaxflow, jaxflow.commands, jaxflow.models, jaxflow.train, jaxflow.eval):
    print(module.__file__)
print(jaxflow.rollout(numpy.full((1, 1, 2, 2), 0.5)).tolist())
"""
    *files, result = outside(code, tmp_path).splitlines()
    for file in files:
        assert Path(file).is_relative_to(wheel.installed())
    assert result == "[[[0.75, 0.25], [0.25, 0.75]]]"


def test_the_wheel_answers_with_the_model_it_brings(tmp_path: Path) -> None:
    code = """
import jaxflow.models
model = jaxflow.models.load("agreement")
print(model.probabilities(model.tokenizer.encode_batch(["the keys to the cabinet"])).argmax())
"""
    assert outside(code, tmp_path) == "1"


def test_importing_jaxflow_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"import jaxflow, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    assert outside(code, tmp_path) == ""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the rooms under the name by which it is imported, and its file."""
    for room in wheel.ROOMS:
        package = "jaxflow" if room == "jaxflow" else f"jaxflow.{room}"
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            # `from jaxflow import eval` names a module, `from jaxflow import rollout` does not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "jaxflow":
        return None
    if parts[1:] == ["__main__"]:
        return "jaxflow.commands"
    if parts[1:2] and parts[1] in ("models", "train", "eval", "commands"):
        return ".".join(parts[:2])
    return "jaxflow"


@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules()]
)
def test_nothing_imports_upward(module: str, path: Path) -> None:
    room = room_of(module)
    assert room is not None
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in ("models", "train", "eval", "tests"), f"{module} imports bare {name}"
        if top == "flax":
            assert room == "jaxflow.models", f"{module} imports {name}: only models/ knows Flax"
        target = room_of(name)
        if target is not None and room != "jaxflow.commands":
            assert target in MAY_IMPORT[room] | {room}, f"{module} imports {name}"


@pytest.mark.parametrize("name", [name for name, _ in modules() if "__main__" not in name])
def test_every_module_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__


# What API.md promises: positional parameters, then keyword-only ones with their defaults.
ATTENTION = {"attention": EMPTY}
COMMON = {"residual": 0.5, "heads": "mean", "mask": None}
MANY = {"sources": None, "layers": None, "threads": None}
PROMISED: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "raw_attention": (ATTENTION, {"heads": "mean", "mask": None}),
    "rollout": (ATTENTION, {**COMMON, "start_layer": 0}),
    "head_rollout": (ATTENTION, {"residual": 0.5, "mask": None}),
    "flow": (ATTENTION, {**COMMON, **MANY}),
    "flow_cut": (ATTENTION, {"layer": EMPTY, "source": EMPTY, "sink": EMPTY}),
    "saturation": (ATTENTION, {}),
    "input_gradient": ({"score": EMPTY, "embeddings": EMPTY}, {}),
    "gradient_x_input": ({"score": EMPTY, "embeddings": EMPTY}, {}),
    "integrated_gradients": (
        {"score": EMPTY, "embeddings": EMPTY, "baseline": None, "steps": 64},
        {},
    ),
    "blank_out": (
        {"predict": EMPTY, "tokens": EMPTY, "unk_id": EMPTY},
        {"label": None, "mask": None},
    ),
    "spearman": ({"a": EMPTY, "b": EMPTY, "mask": None}, {}),
    "attention_graph": (ATTENTION, {}),
}


@pytest.mark.parametrize("name", PROMISED)
def test_public_names_take_what_is_promised(name: str) -> None:
    assert name in jaxflow.__all__
    function = getattr(jaxflow, name)
    assert callable(function), f"jaxflow.{name} is hidden by something else of that name"
    parameters = inspect.signature(function).parameters
    positional, keywords = PROMISED[name]
    assert list(parameters)[: len(positional)] == list(positional)
    for parameter, default in positional.items():
        assert parameters[parameter].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters[parameter].default == default
    for parameter, default in keywords.items():
        assert parameters[parameter].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[parameter].default == default
    # What was not promised may be there, but may not be asked for.
    for parameter in parameters.keys() - positional.keys() - keywords.keys():
        assert parameters[parameter].default is not EMPTY
    assert function.__doc__


def test_models_offer_what_is_promised() -> None:
    models = importlib.import_module("jaxflow.models")
    assert list(inspect.signature(models.load).parameters) == ["path_or_name", "head"]
    call = inspect.signature(models.Model.__call__).parameters
    assert list(call) == ["self", "tokens", "mask", "options"]
    assert {"config", "params", "tokenizer"} <= set(models.Model.__dataclass_fields__)
    fields = list(models.EncoderOutput.__dataclass_fields__)
    assert fields[:3] == ["logits", "attention", "hidden"]
    for method, first in (("__call__", "tokens"), ("embed", "tokens"), ("encode", "embeddings")):
        parameters = inspect.signature(getattr(models.AgreementEncoder, method)).parameters
        assert list(parameters)[1] == first
        assert method == "embed" or parameters["mask"].default is None
