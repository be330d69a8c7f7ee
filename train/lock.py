"""One process at a time in a folder: a lock that the system lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxflow.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["hold"]

LOCK = ".lock"

# What a file system says that has no such locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

# What is written beside its place and renamed: ``.NAME.PROCESS``, ``.NAME.PROCESS.part``, and
# ``.NAME.PROCESS.old``, which was moved out of the way for it.
_BESIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)(?P<kind>|\.part|\.old)", re.DOTALL)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Have a folder to oneself for the duration of a block.

    Parameters
    ----------
    folder
        Made if it is not there, and taken away again if the block leaves nothing in it. What a
        killed process left half-written beside its place is cleared away.

    Raises
    ------
    InputError
        If another process has it, which the message names, or it cannot be written.

    Notes
    -----
    The lock is advisory, of ``flock``'s kind, on ``.lock`` in the folder, which also names its
    holder. The kernel lets go of it when the process ends, however it ends: a killed one blocks
    nobody. Where there is no ``flock`` (Windows, and file systems that do not offer it) nothing is
    locked, and keeping two processes apart is the user's affair.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock: int | None = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
            _sweep(folder)
        except OSError as error:
            raise InputError(
                f"the folder {folder} cannot be written: {error.strerror or error}"
            ) from error
        yield
    finally:
        if lock is not None:
            # Unlinked while it is still locked: see `_locked`.
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
            os.close(lock)
        with contextlib.suppress(OSError):
            for place in made:  # the innermost first, until one is not empty
                place.rmdir()


def _locked(folder: Path) -> int | None:
    """Lock the file and return its descriptor, or None where there are no locks."""
    if fcntl is None:
        return None
    path = folder / LOCK
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder that has just finished may have taken the file away between the two.
            if not os.path.samestat(os.fstat(lock), os.stat(path)):
                os.close(lock)
                continue
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
            return lock
        except FileNotFoundError:
            os.close(lock)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace") or "another process"
            os.close(lock)
            raise InputError(
                f"the folder {folder} is in use by {holder}: wait until it has finished, or choose "
                "another folder"
            ) from None
        except OSError as error:
            os.close(lock)
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                return None
            raise


def _sweep(folder: Path) -> None:
    """Clear away what processes that are no more left beside its place."""
    for path in list(folder.iterdir()):
        match = _BESIDE.fullmatch(path.name)
        if match is None or _runs(int(match["process"])):
            continue
        place = folder / match["name"]
        if match["kind"] == ".old" and not place.exists():  # killed between two renames
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _runs(process: int) -> bool:
    """Whether another process has that number; of this one's nothing is under way yet."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
