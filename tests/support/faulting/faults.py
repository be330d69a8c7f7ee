"""What a child does to itself at its n-th file operation: it is killed, or the operation fails.

Python tells an audit hook of each opening, renaming and making of a folder before it happens, and a
hook may refuse. Writes by compiled code are met by killing at a random time and by small file
systems instead.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

__all__ = ["OPERATIONS", "install"]

#: Kinds of failure -> the operations that fail, and how. A full disk lets files be deleted.
OPERATIONS = {
    "ENOSPC": ("open", "os.rename", "os.mkdir"),
    "EROFS": ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"),
    "EACCES": ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"),
}
ALL = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(folder: str, kind: str | None, at: int | None) -> list[int]:
    """Count the operations that change a folder's files, and let a fault come with the n-th.

    Parameters
    ----------
    folder
        Operations on other places are not counted; those that name no place, relative to an open
        folder, are.
    kind
        ``kill``, a key of `OPERATIONS`, or None to count only. A failure lasts.
    at
        From 1.

    Returns
    -------
    list of int
        One number, of the operations so far.
    """
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ALL:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        else:
            path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        if os.path.isabs(name) and not name.startswith(folder):
            return
        count[0] += 1
        if kind is None or at is None or count[0] < at:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event in OPERATIONS[kind]:
            number = getattr(errno, kind)
            raise OSError(number, os.strerror(number), name)

    sys.addaudithook(hook)
    return count
