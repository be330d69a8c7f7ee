"""Provide the command ``jaxflow``, the only part that imports all packages.

Each subcommand is a file, whose options are the fields of a frozen dataclass. What a command needs
is imported when it runs, so that ``jaxflow --help`` is quick.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from jaxflow.commands._runtime import ended_by_signals, exit_status
from jaxflow.errors import InputError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0, 2 for unusable input, and 128 and the signal's number after SIGINT and SIGTERM.
    """
    from jaxflow.commands.parser import parse

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with ended_by_signals(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            parse(words).run()
    except BrokenPipeError:  # the program that reads the output, such as head, has ended
        sys.stderr.close()
    except (InputError, KeyboardInterrupt, ModuleNotFoundError) as error:
        if (status := exit_status(error, *words[:1])) is not None:
            return status
        raise
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"jaxflow: {' '.join(str(message).split())}", file=sys.stderr)
