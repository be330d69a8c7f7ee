"""Memory kept between steps, in a process of its own: it cannot be undone."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from jaxflow.commands._runtime import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("nobody to tell")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only the GNU C library can be told")
def test_freed_memory_is_used_again():
    def count(what):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False
        )

    kept = count("keep")
    if "nobody to tell" in kept.stderr:
        pytest.skip("only the GNU C library can be told")
    assert int(kept.stdout) < 10
    assert int(count("leave").stdout) > 10
