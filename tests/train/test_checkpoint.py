"""Checkpoints that cannot be written, or not be deleted, and what is said of them."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxflow.errors import InputError
from jaxflow.train.checkpoint import Checkpoints, open_checkpoints
from jaxflow.train.step import TrainState

# Each object ends as a write of TensorStore's does that finds Orbax's event loop closed.
PROGRAM = """
import sys
from pathlib import Path
from jaxflow.errors import InputError
from jaxflow.train.checkpoint import open_checkpoints

class Late:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)

folder = Path(sys.argv[1])
before = sys.unraisablehook
with open_checkpoints(folder):
    Late("Event loop is closed")
assert sys.unraisablehook is before
try:
    with open_checkpoints(folder):
        raise InputError("the disk is full")
except InputError as error:
    print(error, file=sys.stderr)
Late("Event loop is closed")
if sys.argv[2:]:
    Late("another")
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_writes_that_end_after_a_failure_say_nothing(tmp_path):
    assert run(tmp_path / "checkpoints") == "the disk is full\n"


def test_what_else_goes_wrong_is_told(tmp_path):
    said = run(tmp_path / "checkpoints", "another")
    assert said.startswith("the disk is full\n")
    assert said.endswith("RuntimeError: another\n")


def test_a_run_that_could_not_delete_its_oldest_checkpoint_does_so_when_it_goes_on(
    tmp_path, monkeypatch
):
    """Found by taking the permission away between the last checkpoint and the deletion."""
    folder = tmp_path / "checkpoints"

    def state(step):
        empty = TrainState(*(None for _ in TrainState._fields))
        return empty._replace(step=jnp.int32(step), params={"w": jnp.full(3, float(step))})

    def refuse(checkpoints):
        raise PermissionError(13, "Permission denied")

    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(state(1))
        checkpoints.save(state(2))
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "_prune", refuse)
            with pytest.raises(InputError, match="cannot be written"):
                checkpoints.save(state(3))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}
    with open_checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(state(0))
        assert int(restored.step) == 3
        assert restored.params["w"].tolist() == [3.0] * 3
    assert {path.name for path in folder.iterdir()} == {"2", "3"}
