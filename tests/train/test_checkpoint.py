"""Test damaged checkpoints, failing writes and deletions, and their messages."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import assert_equal_trees

from jaxflow.errors import InputError
from jaxflow.train.checkpoint import Checkpoints, open_checkpoints
from jaxflow.train.step import TrainState

# Each object ends as a write of TensorStore's does that finds Orbax's event loop closed: with an
# exception that nobody can raise, or, printed by compiled code, one that nobody caught.
PROGRAM = """
import sys
from pathlib import Path
from jaxflow.errors import InputError
from jaxflow.train.checkpoint import open_checkpoints
from jaxflow.train.config import TrainConfig
from jaxflow.train.mesh import layout_of
from jaxflow.train.run import open_run

class Late:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)

def late(message):
    Late(message)
    error = RuntimeError(message)
    sys.excepthook(RuntimeError, error, None)

def opened(folder):
    if sys.argv[2] == "checkpoints":
        return open_checkpoints(folder)
    return open_run(folder, TrainConfig(), layout_of(), print)

before = sys.unraisablehook, sys.excepthook
with opened(Path(sys.argv[1])):
    late("Event loop is closed")
assert (sys.unraisablehook, sys.excepthook) == before
try:
    with opened(Path(sys.argv[1])):
        raise InputError("the disk is full")
except InputError as error:
    print(error, file=sys.stderr)
late("Event loop is closed")
if sys.argv[3:]:
    late(sys.argv[3])
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_what_else_goes_wrong_is_told(tmp_path):
    said = run(tmp_path / "checkpoints", "checkpoints", "another")
    assert said.startswith("the disk is full\n")
    assert said.endswith("RuntimeError: another\n")
    assert said.count("RuntimeError: another\n") == 2


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


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path / "checkpoints", state_of(0)) is None


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "flipped": lambda file: file.write_bytes(
        bytes(byte ^ 255 if i % 64 == 40 else byte for i, byte in enumerate(file.read_bytes()))
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, saved, damage, capfd):
    """Whichever of its files is damaged."""
    names = [file.relative_to(saved) for file in (saved / "9").rglob("*") if file.is_file()]
    assert len(names) > 5
    chosen = names if damage == "flipped" else [n for n in names if n.name in ("sha256", "d")][:1]
    for number, name in enumerate(chosen or names[:1]):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(saved, folder)
        before = (folder / name).read_bytes()
        DAMAGES[damage](folder / name)
        if (folder / name).exists() and (folder / name).read_bytes() == before:
            continue
        assert_equal_trees(restore(folder, state_of(0)), state_of(5))
        said = capfd.readouterr().err
        if name.name == "sha256" and damage == "missing":
            assert (
                said
                == f"{folder / '9'} was cut off before its checksum was written and is not used\n"
            )
        else:
            aside = folder.with_name("checkpoints-damaged") / "9"
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


def test_only_where_no_checkpoint_is_whole_the_run_is_refused(tmp_path, saved):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in ("5", "9"):
        DAMAGES["truncated"](folder / step / "_CHECKPOINT_METADATA")
    there = sorted(folder.rglob("*"))
    for _ in range(2):  # and nothing is moved, or the second try would begin from the beginning
        with pytest.raises(InputError, match=r"no checkpoint in .* is whole \(9, 5 are damaged\)"):
            restore(folder, state_of(0))
        assert sorted(folder.rglob("*")) == there


def test_the_same_step_damaged_twice_is_kept_twice(tmp_path, saved, capfd):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for _ in range(2):
        DAMAGES["truncated"](folder / "9" / "_CHECKPOINT_METADATA")
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(state_of(9, seed=1))
    assert {path.name for path in (tmp_path / "checkpoints-damaged").iterdir()} == {"9", "9-2"}
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_checksums_in_one_file_are_read(tmp_path, saved):
    """Earlier versions kept them in one file."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    together = {step: (folder / step / "sha256").read_text() for step in ("5", "9")}
    for step in together:
        (folder / step / "sha256").unlink()
    (tmp_path / "checkpoints.json").write_text(json.dumps(together))
    assert_equal_trees(restore(folder, state_of(0)), state_of(9, seed=1))
    (tmp_path / "checkpoints.json").write_text("{")
    with pytest.raises(InputError, match=r"checksums .* cannot be read"):
        restore(folder, state_of(0))


def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(tmp_path):
    state = state_of(4)
    broken = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(broken)
    with pytest.raises(InputError, match="must hold finite numbers"):
        restore(tmp_path / "checkpoints", state_of(0))
