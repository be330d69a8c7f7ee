"""Test that files are written atomically, also with errors and signals in between."""

import os
import signal
import subprocess
import sys

import pytest
from session import refused

from jaxflow.files import read_json_object, write_together

CONTENT = {"model.safetensors": b"numbers", "config.json": b"{}"}
PLACES = pytest.mark.parametrize("there", [True, False], ids=["in a folder", "a new folder"])

# It is killed at a rename, the first, second, ... of all.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from jaxflow.files import write_together

left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
content = {"model.safetensors": b"numbers", "config.json": b"{}"}
write_together(Path(sys.argv[1]), content, remove=["config.json", "vocab.txt"])
"""


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed(folder, at):
    command = [sys.executable, "-c", PROGRAM, str(folder), str(at)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_new_folder_appears_at_once(tmp_path):
    assert killed(tmp_path / "model", 1)
    assert not (tmp_path / "model").exists()
    assert write_together(tmp_path / "model", CONTENT)[1] == tmp_path / "model" / "config.json"
    assert files(tmp_path / "model") == CONTENT


@pytest.mark.parametrize("at", [1, 2])
def test_what_is_removed_goes_before_the_first_new_file_comes(tmp_path, at):
    folder = tmp_path / "model"
    before = {"model.safetensors": "before", "vocab.txt": "before", "config.json": "before"}
    write_together(folder, before | {"mine": "m"})
    assert killed(folder, at)
    assert not (folder / "config.json").exists()
    write_together(folder, CONTENT)
    left = {name: data for name, data in files(folder).items() if not name.endswith(".part")}
    assert left == CONTENT | {"mine": b"m"}


@PLACES
def test_each_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch, there):
    synced, renamed, fsync = set(), [], os.fsync

    def record_fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checking(rename):
        def check(source, target):
            inside = list(source.iterdir()) if source.is_dir() else [source]
            renamed.extend(path.stat().st_ino in synced for path in inside)
            rename(source, target)

        return check

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", checking(os.replace))
    monkeypatch.setattr(os, "rename", checking(os.rename))
    folder = tmp_path if there else tmp_path / "new"
    write_together(folder, CONTENT)
    assert renamed == [True, True]
    assert files(folder) == CONTENT


def test_a_folder_that_another_process_makes_meanwhile_is_filled(tmp_path):
    folder = tmp_path / "new"

    def late(path):
        folder.mkdir()
        (folder / "theirs").write_text("t")
        path.write_text("mine")

    write_together(folder, {"mine": late})
    assert files(folder) == {"theirs": b"t", "mine": b"mine"}
    assert list(tmp_path.iterdir()) == [folder]


@PLACES
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, there):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "model"
    if there:
        write_together(folder, {"config.json": "before"})
    monkeypatch.setattr(os, "fsync", full)
    with refused(r"cannot write .*model.*No space left on device"):
        write_together(folder, CONTENT, remove=["config.json"])
    assert list(tmp_path.rglob("*")) == ([folder, folder / "config.json"] if there else [])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b'"text"', b"[]", b'{"a": "b"', b'{"a": 1}, {}', b"\xff\xfe", b'{"a": 1\xff}',
        b'{"a": ' + b"9" * 5000 + b"}", b'{"a":' * 100_000, '{"a": 1}'.encode("utf-16"),
    ],
    ids=lambda content: repr(content[:30]),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with refused(r"^the model's file .*config\.json (cannot be read: |must be one JSON object$)"):
        read_json_object(tmp_path / "config.json", "the model's file")
