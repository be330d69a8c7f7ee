"""Test the lock of a folder: one process at a time, released when it ends."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from session import refused

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
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with (
        hold(tmp_path),
        refused(f"folder {tmp_path} is in use by {holder}: wait .* or choose another folder$"),
        hold(tmp_path),
    ):
        raise AssertionError("both have it")
    with hold(tmp_path):  # the first has finished
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_blocks_nobody(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with refused(f"in use by process {process.pid} on"), hold(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    assert str(process.pid) in (tmp_path / ".lock").read_text()
    with hold(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_taken_away_if_nothing_comes_of_them(tmp_path):
    folder = tmp_path / "a" / "b"
    with refused("refused later"), hold(folder):
        assert folder.is_dir()
        raise InputError("refused later")
    assert list(tmp_path.iterdir()) == []
    with hold(folder):
        (folder / "result").write_text("")
    assert [path.name for path in folder.iterdir()] == ["result"]
    with refused(r"folder .*result cannot be written"), hold(folder / "result"):
        pass


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
    with hold(tmp_path), refused("in use"), hold(tmp_path):
        pass
