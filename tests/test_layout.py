"""Test the layout: content of the archives, imports between packages, signatures."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import wheel

import jaxflow

ROOT = wheel.ROOT
EMPTY = inspect.Parameter.empty

# What a package may import, besides itself; the command line and `explain` may import all.
MAY_IMPORT = {
    "jaxflow": set(),
    "jaxflow.models": {"jaxflow"},
    "jaxflow.train": {"jaxflow", "jaxflow.models"},
    "jaxflow.eval": {"jaxflow", "jaxflow.models", "jaxflow.train"},
}
HEAVY = (
    "numba", "networkx", "matplotlib", "tensorflow_datasets", "orbax", "safetensors", "grain",
    "flax", "optax", "tyro", "rich", "bokeh", "jaxflow.models", "jaxflow.train", "jaxflow.eval",
)  # fmt: skip


def shipped():
    """Return the files that an installation must hold, as they are named there."""
    found = set()
    for package in wheel.PACKAGES:
        place = Path("jaxflow") if package == "jaxflow" else Path("jaxflow") / package
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                found.add(place / path.relative_to(ROOT / package))
    return found


def test_the_archives_hold_every_file_and_are_built_without_a_warning():
    site = wheel.installed()
    names = {path.name for path in site.iterdir()}
    (metadata,) = {name for name in names if name.endswith(".dist-info")}
    assert names - {metadata} == {"jaxflow"}
    assert "jaxflow = jaxflow.commands:main" in (site / metadata / "entry_points.txt").read_text()
    packed = {path.relative_to(site) for path in site.glob("jaxflow/**/*") if path.is_file()}
    assert {path for path in packed if path.suffix != ".pyc"} == shipped()
    (sdist,) = wheel.built().glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert {path if path.parts[1] not in wheel.PACKAGES[1:] else Path(*path.parts[1:])
            for path in shipped()} <= inside  # fmt: skip
    log = (wheel.built() / "build.log").read_text(encoding="utf-8")
    assert not re.findall(r"^.*(?:Warning|WARNING|is absent from).*$", log, re.MULTILINE)


def test_the_wheel_runs_from_another_folder_and_imports_little(tmp_path):
    code = f"""
import sys, numpy, jaxflow
print("heavy:", *sorted(set({HEAVY}) & set(sys.modules)))
print(jaxflow.rollout(numpy.full((1, 1, 2, 2), 0.5)).tolist())
import jaxflow.commands, jaxflow.models, jaxflow.train, jaxflow.eval
for module in (jaxflow, jaxflow.commands, jaxflow.models, jaxflow.train, jaxflow.eval):
    print(module.__file__)
model = jaxflow.models.load("agreement")
print(model.probabilities(model.tokenizer.encode_batch(["the keys to the cabinet"])).argmax())
"""
    environment = {**os.environ, "PYTHONPATH": str(wheel.installed())}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    heavy, result, *files, label = done.stdout.splitlines()
    assert heavy == "heavy:"
    assert result == "[[[0.75, 0.25], [0.25, 0.75]]]"
    assert all(Path(file).is_relative_to(wheel.installed()) for file in files)
    assert label == "1"


def modules():
    """Yield every module under the name by which it is imported, and its file."""
    for package in wheel.PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT / package).with_suffix("").parts
            start = ["jaxflow"] if package == "jaxflow" else ["jaxflow", package]
            yield ".".join([*start, *(part for part in parts if part != "__init__")]), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            # `from jaxflow import eval` names a module, `from jaxflow import rollout` does not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module):
    first, second, *_ = [*module.split("."), "", ""]
    if first != "jaxflow":
        return None
    second = "commands" if second == "__main__" else second
    return f"jaxflow.{second}" if second in ("models", "train", "eval", "commands") else "jaxflow"


def test_nothing_imports_upward():
    wrong = []
    for module, path in modules():
        if module == "jaxflow._explain":  # when it is called
            continue
        package = package_of(module)
        for name in imported(path):
            top, target = name.split(".")[0], package_of(name)
            bare = top in ("models", "train", "eval", "tests")
            flax = top == "flax" and package != "jaxflow.models"
            may = MAY_IMPORT.get(package, {target}) | {package, None}
            if bare or flax or target not in may:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_only_packages_list_their_names_and_each_is_there_once():
    for name, path in modules():
        listed = re.search("^__all__", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not listed or path.name == "__init__.py", f"{name} has __all__"
        if listed:
            module = importlib.import_module(name)
            missing = [public for public in module.__all__ if not hasattr(module, public)]
            assert (missing, len(set(module.__all__))) == ([], len(module.__all__)), name


# What is promised: positional parameters, then keyword-only ones with their defaults.
ATTENTION = {"attention": EMPTY}
COMMON = {"residual": 0.5, "heads": "mean", "mask": None}
SCORE = {"score": EMPTY, "embeddings": EMPTY}
PROMISED = {
    "raw_attention": (ATTENTION, {"heads": "mean", "mask": None}),
    "rollout": (ATTENTION, {**COMMON, "start_layer": 0, "sources": None}),
    "head_rollout": (ATTENTION, {"residual": 0.5, "mask": None}),
    "rollout_rows": ({**ATTENTION, "sources": None}, {**COMMON, "layers": -1, "weights": None}),
    "flow": (ATTENTION, {**COMMON, "sources": None, "layers": None, "threads": None}),
    "flow_cut": (ATTENTION, {"layer": EMPTY, "source": EMPTY, "sink": EMPTY}),
    "saturation": (ATTENTION, {}),
    "input_gradient": (SCORE, {}),
    "gradient_x_input": (SCORE, {}),
    "integrated_gradients": ({**SCORE, "baseline": None, "steps": 64}, {}),
    "blank_out": (
        {"predict": EMPTY, "tokens": EMPTY, "unk_id": EMPTY},
        {"label": None, "mask": None},
    ),
    "spearman": ({"a": EMPTY, "b": EMPTY, "mask": None}, {}),
    "attention_graph": (ATTENTION, {}),
}


@pytest.mark.parametrize("name", PROMISED)
def test_public_functions_take_what_is_promised(name):
    assert name in jaxflow.__all__
    function = getattr(jaxflow, name)
    assert callable(function), f"jaxflow.{name} is hidden by something else of that name"
    assert function.__doc__
    parameters = inspect.signature(function).parameters
    positional, keywords = PROMISED[name]
    assert list(parameters)[: len(positional)] == list(positional)
    for parameter, default in {**positional, **keywords}.items():
        kind = "POSITIONAL_OR_KEYWORD" if parameter in positional else "KEYWORD_ONLY"
        found = parameters[parameter]
        assert (found.kind.name, found.default) == (kind, default)
    # What was not promised may be there, but may not be asked for.
    for parameter in parameters.keys() - positional.keys() - keywords.keys():
        assert parameters[parameter].default is not EMPTY


def test_models_offer_what_is_promised():
    from jaxflow import models

    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(models.load)[0] == "path_or_name"
    assert names(models.Model.__call__)[:3] == ["self", "tokens", "mask"]
    assert {"config", "params", "tokenizer"} <= set(models.Model.__dataclass_fields__)
    fields = list(models.EncoderOutput.__dataclass_fields__)
    assert fields[:3] == ["logits", "attention", "hidden"]
    encoder = models.AgreementEncoder
    assert names(encoder.__call__)[:3] == ["self", "tokens", "mask"]
    assert names(encoder.embed)[:2] == ["self", "tokens"]
    assert names(encoder.encode)[:3] == ["self", "embeddings", "mask"]
    for method in (encoder.__call__, encoder.encode):
        assert inspect.signature(method).parameters["mask"].default is None
