"""Provide tests of commands with a working folder each and a check of errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from session import once_a_session
from tiny_models import tiny

from jaxflow.commands import main
from jaxflow.models import save_pretrained


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The empty folder that the command is called in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """A tiny published classifier on disk; read only."""
    return once_a_session("published", lambda folder: save_pretrained(folder, tiny()))


@pytest.fixture
def refused(capfd, tmp_path):
    """A function: run the command, expect exit 2, one line on stderr and no new file."""

    def check(*arguments, parts=()):
        capfd.readouterr()
        before = sorted(tmp_path.rglob("*"))
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("jaxflow: error: ")
        assert err.count("\n") == 1
        for part in parts:
            assert str(part) in err
        assert sorted(tmp_path.rglob("*")) == before

    return check
