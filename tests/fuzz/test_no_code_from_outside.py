"""Test that nothing read is executed, and that imports use no network and write nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wheel

#: Modules that run what they are given, start programs, or speak to other machines.
DANGEROUS = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml",
    "subprocess", "pty", "code", "codeop", "runpy", "imp", "socket", "ssl", "socketserver",
    "http", "urllib", "ftplib", "smtplib", "xmlrpc", "requests", "httpx", "aiohttp", "asyncio",
    "ctypes", "cffi", "xml", "webbrowser", "torch", "msgpack",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
ATTRIBUTES = {
    "system", "popen", "spawnl", "spawnv", "execv", "execve", "execvp", "fork", "forkpty",
    "startfile", "literal_eval", "loads_pickle", "load_module", "unpack_archive", "extractall",
}  # fmt: skip
#: Options that may be passed as False only.
REFUSED = {"shell", "allow_pickle", "trust_remote_code"}
#: What is there all the same, by file, and why.
ALLOWED = {
    ("jaxflow/_capture/torch_models.py", "torch"): "runs the model that the caller gives",
    ("train/builder.py", "urllib"): "asks whether the corpus is there before TFDS fetches it",
    ("train/builder.py", "extractall"): "of zipfile, which lets no member lead elsewhere",
    ("jaxflow/commands/_options.py", "literal_eval"): "reads the texts of its own options",
    ("jaxflow/commands/_runtime.py", "ctypes"): "calls mallopt of the C library, with numbers",
    ("eval/benchmarks/timing.py", "ctypes"): "calls malloc_trim of the C library",
    ("eval/benchmarks/rollout.py", "torch"): "a peer that is timed",
    ("eval/benchmarks/encoders.py", "torch"): "a peer that is timed",
}


def findings(tree: ast.AST) -> Iterator[str]:
    """Every dangerous module, builtin, attribute or option that a source uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & DANGEROUS
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.split(".")[0]} & DANGEROUS
            if node.module == "os":
                yield from {alias.name for alias in node.names} & ATTRIBUTES
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            yield node.attr
        elif (
            isinstance(node, ast.keyword)
            and node.arg in REFUSED
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ):
            yield f"{node.arg}="


def sources() -> Iterator[Path]:
    for room in wheel.PACKAGES:
        yield from sorted((wheel.ROOT / room).rglob("*.py"))


def test_no_source_runs_what_it_reads() -> None:
    used = set()
    for path in sources():
        name = path.relative_to(wheel.ROOT).as_posix()
        for finding in findings(ast.parse(path.read_text(encoding="utf-8"))):
            assert (name, finding) in ALLOWED, f"{name} uses {finding}"
            used.add((name, finding))
    assert used == set(ALLOWED), "the list of exceptions is longer than it must be"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import os\nos.system('x')", "eval('1')",
        "from os import execv", "f(shell=True)", "numpy.load(x, allow_pickle=True)",
        "import urllib.request", "exec(compile(x, 'y', 'exec'))", "f(allow_pickle=flag)",
    ],
)  # fmt: skip
def test_the_search_finds(source: str) -> None:
    assert list(findings(ast.parse(source)))


AUDIT = """
import json, os, sys

events = []
WATCHED = ("socket.", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn",
           "os.spawn", "pickle.find_class", "urllib.Request", "http.client", "ftplib", "smtplib",
           "webbrowser.open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.",
           "tempfile.", "os.chmod", "os.link", "os.symlink", "os.truncate")

def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event.startswith(WATCHED) or writes:
        events.append([event, repr(arguments)[:200]])

sys.dont_write_bytecode = True
for name in LIBRARIES:  # what others do when they are imported is not looked at
    try:
        __import__(name)
    except ImportError:
        pass
before = dict(os.environ)
sys.addaudithook(hook)
if not NAMES:
    import socket, tempfile
    socket.socket().close()
    tempfile.mkdtemp()
for name in NAMES:
    __import__(name)
print(json.dumps([events, [key for key in os.environ if os.environ[key] != before.get(key)]]))
"""
LIBRARIES = (
    "jax", "jax.numpy", "flax.linen", "optax", "numba", "scipy.stats", "networkx", "matplotlib",
    "matplotlib.figure", "tensorflow_datasets", "bokeh.models", "bokeh.plotting", "tyro", "rich",
    "orbax.checkpoint", "grain", "safetensors.numpy", "tokenizers", "huggingface_hub", "PIL.Image",
    "pyarrow", "pyarrow.parquet", "urllib.request", "filelock",
)  # fmt: skip


def imported(names: list[str], libraries: tuple[str, ...] = ()) -> tuple[list[list[str]], list]:
    """Import modules in a process of its own; return what the interpreter's auditing saw."""
    done = subprocess.run(
        [sys.executable, "-c", f"LIBRARIES, NAMES = {libraries!r}, {names!r}\n{AUDIT}"],
        cwd=wheel.ROOT,
        env={**os.environ, "PYTHONPATH": str(wheel.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    events, changed = json.loads(done.stdout.splitlines()[-1])
    # Numba makes room there for what it will compile, and sees whether it may write.
    return [event for event in events if "__pycache__" not in event[1]], changed


def module_names() -> list[str]:
    names = []
    for path in sources():
        room, *parts = path.relative_to(wheel.ROOT).with_suffix("").parts
        package = ["jaxflow"] if room == "jaxflow" else ["jaxflow", room]
        names.append(".".join([*package, *(part for part in parts if part != "__init__")]))
    return [name for name in names if not name.endswith("__main__")]


def test_importing_starts_nothing_and_asks_nobody() -> None:
    assert imported(["jaxflow"]) == ([], [])
    assert imported(module_names(), LIBRARIES) == ([], [])
    seen = {event for event, _ in imported([])[0]}
    assert {"socket.__new__", "tempfile.mkdtemp", "os.mkdir"} <= seen
