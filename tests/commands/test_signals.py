"""A command told to stop: 128 and the signal's number, in one line, at once if told twice."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxflow.commands import main
from jaxflow.commands._runtime import ended_by_signals
from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.stopping import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A command whose work is given as a statement.
PROGRAM = """
import hashlib, sys, time
import jaxflow.commands.parser
from jaxflow.commands import main

class Command:
    def run(self):
        try:
            print("begun", flush=True)
            {work}
        finally:
            print("tidied", flush=True)

jaxflow.commands.parser.parse = lambda arguments: Command()
sys.exit(main([]))
"""
# Compiled code that lets other threads run and that no signal interrupts.
LONG_CALL = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def begin(work):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    return process


def seconds_of(process):
    """Return the processor's seconds that a process has had."""
    place = f"/proc/{process.pid}/stat"
    if not os.path.exists(place):
        pytest.skip("there is no /proc")
    with open(place) as file:
        return int(file.read().rsplit(")", 1)[1].split()[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_in_order(number):
    process = begin("time.sleep(600)")
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number
    assert out == "tidied\n"
    assert err == (
        f"jaxflow: stopped by {number.name}; no file is half-written, and the same command goes on "
        "from what is kept\n"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_waits_for_nothing(number):
    process = begin(LONG_CALL)
    spent = seconds_of(process)
    while seconds_of(process) < spent + 0.3:  # in the long call, that is
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number
    assert (out, err) == ("", "")


def test_what_is_ignored_stays_ignored():
    """As by nohup."""
    ignoring = 'trap \'\' INT; exec "$0" -c "$1"'
    program = PROGRAM.format(work="time.sleep(2)")
    process = subprocess.Popen(
        ["sh", "-c", ignoring, sys.executable, program], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, "tidied\n")


def test_handlers_are_put_back(capfd):
    before = [signal.getsignal(number) for number in SIGNALS]
    wakened = signal.set_wakeup_fd(-1)
    assert main(["evaluate", "nowhere"]) == 2
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(wakened) == -1
    capfd.readouterr()


def test_a_signal_in_a_block():
    def block():
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(Stopped) as caught:
        block()
    assert caught.value.number == signal.SIGTERM


def test_an_error_that_a_signal_was_turned_into_is_not_told():
    def block():
        with ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt:  # as an import that is cut off, and another that finds half
                raise InputError("the corpus is damaged") from None

    with pytest.raises(Stopped) as caught:
        block()
    assert caught.value.number == signal.SIGTERM
    with pytest.raises(InputError), ended_by_signals():
        raise InputError("the corpus is damaged")


def test_files_that_belong_together_wait_for_no_signal_half_way(tmp_path, monkeypatch):
    replace = os.replace

    def stopped(source, target):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(os, "replace", replace)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    writers = {name: lambda path: path.write_text("new") for name in ("a", "b")}
    with pytest.raises(Stopped):
        write_together(tmp_path, writers)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def test_a_signal_before_files_are_in_place_leaves_those_from_before(tmp_path):
    (tmp_path / "a").write_text("old")

    def interrupted(path):
        path.write_text("half")
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        write_together(tmp_path, {"a": lambda path: path.write_text("new"), "b": interrupted})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_disk_that_is_full_for_files_that_belong_together(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / f".b.{os.getpid()}.part").symlink_to("/dev/full")
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    writers = {name: lambda path: path.write_text("new") for name in ("a", "b")}
    with pytest.raises(InputError, match="No space left on device"):
        write_together(tmp_path, writers)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}
