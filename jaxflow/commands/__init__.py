"""The command ``jaxflow``: the one place that knows every room.

Each subcommand is a file of its own, whose options are the fields of a frozen dataclass. What they
need is imported when they run, so that ``jaxflow --help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxflow.errors import InputError

__all__ = ["main"]

AGAIN = "no file is half-written, and the same command goes on from what is kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0, 2 for unusable input, and 128 and the signal's number after SIGINT and SIGTERM.
    """
    from jaxflow.commands.parser import parse
    from jaxflow.commands.signals import ended_by_signals
    from jaxflow.stopping import Stopped

    try:
        with ended_by_signals():
            command = parse(list(sys.argv[1:] if arguments is None else arguments))
            command.run()
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"jaxflow: error: {message}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        sys.stderr.close()
        return 0
    except Stopped as stop:
        again = "the same command goes on from there" if stop.kept else AGAIN
        print(f"jaxflow: {stop}; {again}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print(f"jaxflow: interrupted; {AGAIN}", file=sys.stderr)
        return 130
    return 0
