"""Define `InputError`, the error that unusable input raises."""

import re

_LONGEST = 4_000


class InputError(ValueError):
    r"""Unusable input: an array, a file or an option that the project cannot work with.

    Its message is one sentence that names what was wrong, what was expected and, where it
    helps, what to do. The command line prints it on one line and exits with status 2.

    Messages quote what was read, which may be hostile: a line break becomes a space, whatever
    else a terminal would not print as a character is written as an escape, and of a message of
    more than 4,000 characters the middle is left out.

    Examples
    --------
    >>> str(InputError("got a\x1b[31m\u202eb,\nexpected c"))
    'got a\\x1b[31m\\u202eb, expected c'
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(str(message)))


def _one_line(text: str) -> str:
    text = re.sub(r"[\r\n\t\v\f]+ *", " ", text)
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in text
        )
    return text if len(text) <= _LONGEST else f"{text[:3_000]} ... {text[-900:]}"
