"""Lock a folder for one process at a time; the system releases the lock when the process ends."""

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

from filelock import FileLock, Timeout

from jaxflow.errors import InputError

# Errors of a file system that has no such locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

# Temporary names of files that are renamed when written: ``.NAME.PROCESS``, ``.NAME.PROCESS.part``,
# and ``.NAME.PROCESS.old``, which was moved out of the way for it.
_BESIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)(?P<kind>|\.part|\.old)", re.DOTALL)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder for the duration of a block.

    It is made if it is not there, and removed again if the block leaves nothing in it. Temporary
    files of a killed process are deleted. Raises `InputError` if another process has it, which the
    message names, or it cannot be written. The lock is `filelock.FileLock` on ``.lock``, which also
    names its holder. Where a file system has no such locks nothing is locked.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / ".lock"
    # With a callback `filelock` does not fall back to a lock that outlives its holder.
    lock = FileLock(path, timeout=0, thread_local=False, on_acquired=_write_holder)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _acquire(lock, folder)
            _delete_leftovers(folder)
        except OSError as error:
            raise InputError(
                f"the folder {folder} cannot be written: {error.strerror or error}"
            ) from error
        yield
    finally:
        with contextlib.suppress(OSError):
            if lock.is_locked:  # deleted while it is still locked: see `_acquire`
                path.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            for place in made:  # the innermost first, until one is not empty
                place.rmdir()


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _acquire(lock: FileLock, folder: Path) -> None:
    """Lock, unless the file system has no locks."""
    path = Path(lock.lock_file)
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            with contextlib.suppress(FileNotFoundError):  # else its holder has just finished
                holder = path.read_bytes()[:200].decode(errors="replace") or "another process"
                raise InputError(
                    f"the folder {folder} is in use by {holder}: wait until it has finished, or "
                    "choose another folder"
                ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            return


def _delete_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that have ended."""
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
    """Return whether another process has that number; this one has no temporary files yet."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
