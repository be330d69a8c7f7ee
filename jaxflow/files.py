"""Writing result files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxflow.errors import InputError
from jaxflow.stopping import stopping

__all__ = ["write_together"]


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], None]]) -> list[Path]:
    """Write several files of a folder: all of them beside their place, then renamed into it.

    Parameters
    ----------
    folder
        Created with its parents if it is not there.
    writers
        File name -> a function that writes the whole file to the path it is given.

    Returns
    -------
    list of Path
        The files, in the order given.

    Raises
    ------
    InputError
        If the folder cannot be made or written to. No file of an earlier run has changed then,
        unless it was a rename that failed.
    Stopped
        After SIGINT or SIGTERM: before the first file takes its place, or after the last.
    """
    beside = {name: folder / f".{name}.{os.getpid()}.part" for name in writers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, write in writers.items():
                write(beside[name])
                _to_disk(beside[name])
            with stopping():  # a signal waits until all of them are in place
                for name in writers:
                    os.replace(beside[name], folder / name)
        finally:
            for part in beside.values():
                part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write to the folder {folder}: expected a folder that can be written to, "
            f"got {reason!r}"
        ) from error
    return [folder / name for name in writers]


def _to_disk(path: Path) -> None:
    """Have a file on the disk before it is renamed, or it may be empty after a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
