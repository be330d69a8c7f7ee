"""Importing the package is quick: the compilers and graph libraries wait for the first call."""

from __future__ import annotations

import subprocess
import sys


def test_no_compiler_at_import():
    code = "import sys, jaxflow; print(sorted({'numba', 'networkx', 'ortools'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
