"""What is said when a checkpoint cannot be written: the one sentence, and nothing after it."""

import subprocess
import sys

# Each object ends as a write of TensorStore's does that finds Orbax's event loop closed.
PROGRAM = """
import sys
from pathlib import Path
from jaxflow.errors import InputError
from jaxflow.train.checkpoint import open_checkpoints

class Late:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)

folder = Path(sys.argv[1])
before = sys.unraisablehook
with open_checkpoints(folder):
    Late("Event loop is closed")
assert sys.unraisablehook is before
try:
    with open_checkpoints(folder):
        raise InputError("the disk is full")
except InputError as error:
    print(error, file=sys.stderr)
Late("Event loop is closed")
if sys.argv[2:]:
    Late("another")
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_writes_that_end_after_a_failure_say_nothing(tmp_path):
    assert run(tmp_path / "checkpoints") == "the disk is full\n"


def test_what_else_goes_wrong_is_told(tmp_path):
    said = run(tmp_path / "checkpoints", "another")
    assert said.startswith("the disk is full\n")
    assert said.endswith("RuntimeError: another\n")
