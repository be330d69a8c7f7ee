"""How a command ends: what is said of an error, and the exit status."""

from __future__ import annotations

import sys

from jaxflow.errors import InputError
from jaxflow.stopping import Stopped

__all__ = ["told"]

AGAIN = "no file is half-written, and the same command goes on from what is kept"


def told(error: BaseException) -> int | None:
    """Say in one line what ended a command, and return its exit status.

    Returns
    -------
    int or None
        2 for unusable input, 128 and the signal's number after SIGINT and SIGTERM; None for an
        error of the program's own, of which nothing is said.
    """
    if isinstance(error, InputError):
        message, status = f"error: {' '.join(str(error).split())}", 2
    elif isinstance(error, Stopped):
        again = "the same command goes on from there" if error.kept else AGAIN
        message, status = f"{error}; {again}", 128 + error.number
    elif isinstance(error, KeyboardInterrupt):
        message, status = f"interrupted; {AGAIN}", 130
    else:
        return None
    print(f"jaxflow: {message}", file=sys.stderr)
    return status
