"""Run the docstring examples, code blocks and commands of the documents, and check links."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import jax
import pytest

import jaxflow
import jaxflow.eval
import jaxflow.models
import jaxflow.train
from jaxflow.commands.parser import parse

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_docstring_examples():
    attempted = 0
    for package in (jaxflow, jaxflow.models, jaxflow.train, jaxflow.eval):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                result = doctest.testmod(importlib.import_module(found.name))
                assert result.failed == 0, found.name
                attempted += result.attempted
    assert attempted > 50


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_code_of_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(page, "python"):
        with jax.numpy_rank_promotion("allow"):  # as a reader has it
            exec(compile(block, page.name, "exec"), names)


def test_commands_of_the_pages_are_understood():
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split("&&"):
                    words = shlex.split(command, comments=True)
                    if words and Path(words[0]).name == "jaxflow":
                        parse(words[1:])


def test_the_readmes_marked_commands_are_of_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark, part in (("reproduce", "jaxflow reproduce"), ("test", "pytest")):
        (command,) = re.findall(rf"<!-- {mark} -->\n```sh\n(.*)\n```", text)
        assert part in command


def test_links_lead_somewhere_and_nothing_names_a_path_of_this_machine():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"
    for document in [*PAGES, *ROOT.glob("docs/**/*.json")]:
        assert f"{ROOT.parent}/" not in document.read_text(encoding="utf-8"), document
