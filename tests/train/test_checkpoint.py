"""Test damaged checkpoints, failing writes and deletions, and their messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from session import refused
from small_runs import assert_equal_trees

from jaxflow.train.checkpoint import Checkpoints, open_checkpoints
from jaxflow.train.step import TrainState

# Each object ends as a write of TensorStore's does that finds Orbax's event loop closed: with an
# exception that nobody can raise, or, printed by compiled code, one that nobody caught.
LATE_WRITES = """
import sys
from pathlib import Path
from jaxflow.errors import InputError
from jaxflow.train.checkpoint import open_checkpoints

class Late:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)

def late(message):
    Late(message)
    sys.excepthook(RuntimeError, RuntimeError(message), None)

folder, before = Path(sys.argv[1]), (sys.unraisablehook, sys.excepthook)
with open_checkpoints(folder):
    late("Event loop is closed")
assert (sys.unraisablehook, sys.excepthook) == before
try:
    with open_checkpoints(folder):
        raise InputError("the disk is full")
except InputError as error:
    print(error, file=sys.stderr)
late("Event loop is closed")
late("another")
"""


def test_late_writes_are_silent_and_what_else_goes_wrong_is_told(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", LATE_WRITES, str(tmp_path)],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert said.startswith("the disk is full\n")
    assert said.endswith("RuntimeError: another\n")
    assert said.count("RuntimeError: another\n") == 2
    assert "Event loop" not in said


def state_of(step, shape=(40, 30), seed=0):
    """A state as training has it, small enough to be saved and damaged many times."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    params = {"params": {"kernel": jnp.asarray(values), "bias": jnp.arange(3.0)}}
    count = jnp.asarray(step, jnp.int32)
    return TrainState(count, params, (jax.tree.map(lambda leaf: leaf * 2, params), count))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "checkpoints"
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(state_of(5))
        checkpoints.save(state_of(9, seed=1))
    return folder


def restore(folder, like):
    with open_checkpoints(folder) as checkpoints:
        return checkpoints.restore(like)


def test_a_checkpoint_gives_back_the_very_state(saved):
    assert_equal_trees(restore(saved, state_of(0, seed=3)), state_of(9, seed=1))


def test_a_checkpoint_that_could_not_be_deleted_is_when_the_run_goes_on(tmp_path, monkeypatch):
    def refuse(checkpoints):
        raise PermissionError(13, "Permission denied")

    assert restore(tmp_path, state_of(0)) is None
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1))
        checkpoints.save(state_of(2))
        monkeypatch.setattr(Checkpoints, "_prune", refuse)
        with refused("cannot be written"):
            checkpoints.save(state_of(3, seed=1))
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "3"}
    assert_equal_trees(restore(tmp_path, state_of(0)), state_of(3, seed=1))
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = file.read_bytes()
    file.write_bytes(bytes(byte ^ 255 if i % 64 == 40 else byte for i, byte in enumerate(content)))


def empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, saved, damage, capfd):
    """Whichever of its files is damaged."""
    names = [file.relative_to(saved) for file in (saved / "9").rglob("*") if file.is_file()]
    assert len(names) > 5
    chosen = names if damage is flip else [n for n in names if n.name in ("sha256", "d")][:1]
    for number, name in enumerate(chosen):
        folder = shutil.copytree(saved, tmp_path / str(number) / "checkpoints")
        before, aside = (folder / name).read_bytes(), folder.with_name("checkpoints-damaged") / "9"
        damage(folder / name)
        if (folder / name).exists() and (folder / name).read_bytes() == before:
            continue
        assert_equal_trees(restore(folder, state_of(0)), state_of(5))
        said = capfd.readouterr().err
        if name.name == "sha256" and damage is Path.unlink:
            assert said == (
                f"{folder / '9'} was cut off before its checksum was written and is not used\n"
            )
        else:
            assert said == (
                f"the checkpoint {folder / '9'} is damaged: moved to {aside}, going on from the "
                "one before\n"
            )
            assert aside.is_dir()
        # It is not met again, and its step can be kept anew.
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(state_of(9, seed=2))
        assert_equal_trees(restore(folder, state_of(0)), state_of(9, seed=2))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def copied(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_only_where_no_checkpoint_is_whole_the_run_is_refused(copied):
    for step in ("5", "9"):
        truncate(copied / step / "_CHECKPOINT_METADATA")
    there = sorted(copied.rglob("*"))
    for _ in range(2):  # and nothing is moved, or the second try would begin from the beginning
        with refused(r"no checkpoint in .* is whole \(9, 5 are damaged\)"):
            restore(copied, state_of(0))
        assert sorted(copied.rglob("*")) == there


def test_the_same_step_damaged_twice_is_kept_twice(tmp_path, copied, capfd):
    for _ in range(2):
        truncate(copied / "9" / "_CHECKPOINT_METADATA")
        with open_checkpoints(copied) as checkpoints:
            checkpoints.save(state_of(9, seed=1))
    assert {path.name for path in (tmp_path / "checkpoints-damaged").iterdir()} == {"9", "9-2"}
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_checksums_in_one_file_are_read(tmp_path, copied):
    """Version 0.1.0 kept them in one file."""
    seals = {step: copied / step / "sha256" for step in ("5", "9")}
    together = tmp_path / "checkpoints.json"
    together.write_text(json.dumps({step: seal.read_text() for step, seal in seals.items()}))
    for seal in seals.values():
        seal.unlink()
    assert_equal_trees(restore(copied, state_of(0)), state_of(9, seed=1))
    together.write_text("{")
    with refused(r"checksums .* cannot be read"):
        restore(copied, state_of(0))


def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(tmp_path):
    state = state_of(4)
    broken = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(broken)
    with refused("must hold finite numbers"):
        restore(tmp_path, state_of(0))
