"""Files of a model: a process that is killed leaves none of them, or all."""

import os
import signal
import subprocess
import sys

import pytest

from jaxflow.errors import InputError
from jaxflow.models.files import write_files

CONTENT = {"model.safetensors": b"numbers", "config.json": b"{}"}

# It is killed at a rename, the first, second, ... of all.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from jaxflow.models.files import write_files

left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
write_files(Path(sys.argv[1]), {"model.safetensors": b"numbers", "config.json": b"{}"})
"""


def killed(folder, at):
    command = [sys.executable, "-c", PROGRAM, str(folder), str(at)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_new_folder_appears_at_once(tmp_path):
    assert killed(tmp_path / "model", 1)
    assert not (tmp_path / "model").exists()
    write_files(tmp_path / "model", CONTENT)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == CONTENT


@pytest.mark.parametrize("at", [1, 2])
def test_in_a_folder_that_is_there_the_last_file_comes_last(tmp_path, at):
    folder = tmp_path / "model"
    write_files(folder, {"model.safetensors": b"before", "config.json": b"before", "mine": b"m"})
    assert killed(folder, at)
    assert not (folder / "config.json").exists()
    write_files(folder, CONTENT)
    assert all((folder / name).read_bytes() == data for name, data in CONTENT.items())
    assert (folder / "mine").read_bytes() == b"m"


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written to .*model: No space left on device"):
        write_files(tmp_path / "model", CONTENT)
    assert list(tmp_path.iterdir()) == []
