"""Files of sentences, one a line."""

from __future__ import annotations

import sys
from pathlib import Path

from jaxflow.errors import InputError

__all__ = ["read_sentences"]


def read_sentences(file: Path) -> list[str]:
    """Read a file with a sentence a line, or standard input for -; empty lines do not count.

    Raises
    ------
    InputError
        If it cannot be read or is no UTF-8 text.
    """
    standard = str(file) == "-"
    try:
        data = sys.stdin.buffer.read() if standard else file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        name = "standard input" if standard else file
        raise InputError(
            f"{name} must be text, a sentence a line, and cannot be read: {reason}"
        ) from error
    # Only line ends: some text has other characters that Python takes for one.
    return [line.strip("\r") for line in text.split("\n") if line.strip()]
