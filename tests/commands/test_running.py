"""Test what every command runs in: signals, the compilation cache, memory of the C library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from jaxflow.commands import _console, main
from jaxflow.commands._runtime import compilation_cache, ended_by_signals
from jaxflow.errors import InputError
from jaxflow.stopping import Stopped

# A command whose work is given as a statement.
PROGRAM = """
import hashlib, sys, time
import jaxflow.commands.parser
from jaxflow.commands import _console, main

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


def begin(work, *before):
    process = subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM.format(work=work)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    return process


def processor_seconds(process):
    with open(f"/proc/{process.pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[11]) / os.sysconf("SC_CLK_TCK")


def test_a_signal_ends_a_command_in_order():
    process = begin("time.sleep(600)")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (128 + signal.SIGTERM, "tidied\n")
    assert err.startswith("jaxflow: stopped by SIGTERM; no file is half-written")
    assert err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/proc"), reason="there is no /proc")
def test_a_second_signal_waits_for_nothing():
    process = begin(LONG_CALL)
    spent = processor_seconds(process)
    while processor_seconds(process) < spent + 0.3:  # in the long call, that is
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 128 + signal.SIGINT


def test_what_is_ignored_stays_ignored():
    """As by nohup."""
    process = begin("time.sleep(1)", "sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == "tidied\n"
    assert process.returncode == 0


def test_handlers_are_put_back(capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    wakened = signal.set_wakeup_fd(-1)
    assert main(["evaluate", "nowhere"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(wakened) == -1


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned into an error"])
def test_a_signal_in_a_block(turned):
    """Also where an import that is cut off, or another that finds half of it, makes it an error."""
    damaged = InputError("the corpus is damaged")

    def block():
        with ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt as interrupt:
                raise (damaged if turned else interrupt) from None

    with pytest.raises(Stopped) as caught:
        block()
    assert caught.value.number == signal.SIGTERM
    with pytest.raises(InputError), ended_by_signals():
        raise damaged


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, with none of JAX's own: the session's is put aside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    jax_cache.reset_cache()
    yield tmp_path / "jaxflow" / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    jax_cache.reset_cache()


def compile_something(number):
    """Compile and run a program of its own; return its result."""

    @jax.jit
    def work(values):
        for turn in range(3):
            values = jnp.sort(jnp.sin(values) * (number + turn)) @ values
        return values

    return work(jnp.eye(7)).tolist()


def test_programs_are_kept_in_the_block_only(cache):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    compile_something(1)
    with compilation_cache():
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        expected = compile_something(2)
    kept = sorted(cache.iterdir())
    assert any("jit_work" in path.name for path in kept)
    compile_something(3)
    assert sorted(cache.iterdir()) == kept
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before
    # What a killed process left half-written is compiled again.
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    jax.clear_caches()
    with compilation_cache():
        assert compile_something(2) == expected


def test_a_cache_that_cannot_be_written_or_is_the_users_own(cache, tmp_path):
    (tmp_path / "jaxflow").write_text("in the way")
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir is None
        compile_something(4)
    with pytest.raises(KeyError), compilation_cache():
        raise KeyError
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


HEAP = """
import resource, sys
import numpy as np
from jaxflow.commands._runtime import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no mallopt")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is the GNU C library's")
def test_freed_memory_is_used_again():
    """In processes of their own: it cannot be undone."""
    commands = [[sys.executable, "-c", HEAP, what] for what in ("keep", "leave")]
    kept, left = (subprocess.run(each, capture_output=True, text=True) for each in commands)
    if "no mallopt" in kept.stderr:
        pytest.skip("mallopt is the GNU C library's")
    assert int(kept.stdout) < 10 < int(left.stdout)


@pytest.mark.parametrize("other", [False, True])
def test_a_slow_beginning_is_announced_unless_something_else_is_shown(monkeypatch, capsys, other):
    monkeypatch.setattr(_console, "PATIENCE", 0.02)
    with _console.starting("preparing") as begun:
        if other:
            begun()
        time.sleep(0.3)
    assert capsys.readouterr().err == ("" if other else "preparing ...\n")
