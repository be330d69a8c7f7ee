"""What the documents say runs: docstring examples, the README's code and its commands."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from jaxflow.commands.parser import parse

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "jaxflow",
    "jaxflow.edges",
    "jaxflow._flow",
    "jaxflow.html",
    "jaxflow.models",
    "jaxflow.train",
    "jaxflow.eval",
    "jaxflow.eval.explain",
    "jaxflow.eval.io",
    "jaxflow.eval.leaderboard",
    "jaxflow.eval.paper",
    "jaxflow.eval.plots",
    "jaxflow.eval.pronouns",
    "jaxflow.eval.report",
    "jaxflow.eval.score",
    "jaxflow.eval.sharded",
)


def modules():
    for package in PACKAGES:
        folder = Path(importlib.import_module(package).__file__).parent
        for found in pkgutil.iter_modules([str(folder)]):
            if not found.ispkg and found.name != "__main__":
                yield f"{package}.{found.name}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_docstring_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_there_are_docstring_examples():
    finder = doctest.DocTestFinder()
    examples = [test for test in finder.find(importlib.import_module("jaxflow._rollout"))]
    assert any(test.examples for test in examples)


def blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_code_runs():
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["attention"].shape == (6, 8, 5, 5)


PAGES = sorted(ROOT.glob("docs/**/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_commands_of_the_pages_are_understood(page):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words and Path(words[0]).name == "jaxflow":
                    parse(words[1:])


def test_readme_has_two_commands_of_one_line():
    commands = blocks("sh")
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)
    assert "jaxflow reproduce" in commands[0]
    assert "pytest" in commands[1]


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (document.parent / target).exists(), target


def test_no_document_names_a_path_of_the_machine():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.json")]:
        assert str(ROOT.parent) + "/" not in document.read_text(encoding="utf-8"), document
