"""Test the lock of a folder: one process at a time, released when it ends."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxflow.errors import InputError
from jaxflow.train.lock import hold

HOLDING = """
import sys, time
from pathlib import Path
from jaxflow.train.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_refused_by_the_name_of_the_first(tmp_path):
    with hold(tmp_path), pytest.raises(InputError) as caught, hold(tmp_path):
        raise AssertionError("both have it")
    assert str(caught.value) == (
        f"the folder {tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}: wait "
        "until it has finished, or choose another folder"
    )
    with hold(tmp_path):  # the first has finished
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_blocks_nobody(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"in use by process {process.pid} on"), hold(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert str(process.pid) in (tmp_path / ".lock").read_text()
    with hold(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_taken_away_if_nothing_comes_of_them(tmp_path):
    def refused():
        with hold(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
            raise InputError("refused later")

    with pytest.raises(InputError, match="refused later"):
        refused()
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


def test_what_dead_processes_left_is_cleared_and_nothing_else(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    dead, alive, own = int(ended.stdout), os.getppid(), os.getpid()
    for name in (f".tables.md.{dead}.part", f".config.json.{own}", f".scores.npz.{alive}.part",
                 ".hidden", "tables.md", f"notes.{dead}"):  # fmt: skip
        (tmp_path / name).write_text(name)
    for name in (f".model.{dead}.old", f".other.{dead}.old", "other"):
        (tmp_path / name).mkdir()
    with hold(tmp_path):
        pass
    # A model that was moved out of the way of one that never came is put back.
    assert {path.name for path in tmp_path.iterdir()} == {
        f".scores.npz.{alive}.part", ".hidden", "tables.md", f"notes.{dead}", "model", "other"
    }  # fmt: skip


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"folder .*file.* cannot be written"),
        hold(tmp_path / "file"),
    ):
        pass


def test_file_systems_without_locks_lock_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path), hold(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_lock_deleted_between_opening_and_locking_is_taken_anew(tmp_path, monkeypatch):
    real = fcntl.flock
    raced = []

    def overtaken(descriptor, how):
        if not raced:  # its holder finishes just now
            raced.append(Path(tmp_path / ".lock").unlink())
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with hold(tmp_path), pytest.raises(InputError, match="in use"), hold(tmp_path):
        pass
