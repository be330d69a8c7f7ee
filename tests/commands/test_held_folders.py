"""Commands that leave results have their folder to themselves and clear what killed ones left."""

from __future__ import annotations

import os

import pytest

from jaxflow.commands.evaluate import Evaluate
from jaxflow.commands.leaderboard import Leaderboard
from jaxflow.commands.pronouns import ReproducePronouns
from jaxflow.commands.reproduce import Reproduce
from jaxflow.errors import InputError
from jaxflow.train.lock import hold

COMMANDS = {
    "evaluate": lambda out: Evaluate(out.parent, out=out),
    "shards": lambda out: Evaluate(out.parent, out=out, shards=2),
    "leaderboard": lambda out: Leaderboard((out.parent,), out=out),
    "reproduce": lambda out: Reproduce(out=out),
    "pronouns": lambda out: ReproducePronouns(out=out),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_in_use_is_refused(name, tmp_path):
    out = tmp_path / "out"
    said = f"out is in use by process {os.getpid()} on "
    with hold(out), pytest.raises(InputError, match=said):
        COMMANDS[name](out).run()
    assert not out.exists()


@pytest.mark.parametrize("name", ["evaluate", "shards"])
def test_what_was_left_half_written_is_cleared_away(name, tmp_path):
    """Before the command finds that there is no run, which is soon."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".tables.md.4194305.part").touch()  # no process has that number
    with pytest.raises(InputError, match="no run at"):
        COMMANDS[name](out).run()
    assert list(out.iterdir()) == []
