"""The command ``jaxflow``: the one place that knows every room.

Each subcommand is a file of its own, whose options are the fields of a frozen dataclass. What they
need is imported when they run, so that ``jaxflow --help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxflow.errors import InputError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 for unusable input."""
    from jaxflow.commands.parser import parse

    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        command.run()
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"jaxflow: error: {message}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("jaxflow: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0
