"""Write files atomically: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError
from jaxflow.stopping import stopping

Content = bytes | str | Callable[[Path], object]
"""The content of a file, or a function that writes the whole file to the path it is given."""


def write_together(
    folder: Path, writers: Mapping[str, Content], *, remove: Collection[str] = ()
) -> list[Path]:
    """Write several files of a folder: all under temporary names first, then renamed.

    A new folder appears at once, with all its files. In an existing folder the files are renamed
    in the order of `writers` (name -> content), so that the last may mark the others as complete;
    its files in `remove`, which must not be read beside the new ones, are deleted before that, and
    others are left alone. Returns the files in that order.

    Raises `InputError` if the folder cannot be made or written to: no file of an earlier run has
    changed then, unless it was a rename that failed. Raises `Stopped` after SIGINT or SIGTERM,
    before the first file takes its place, or after the last.
    """
    own = f"{os.getpid()}.part"
    new = folder.absolute().with_name(f".{folder.name}.{own}")
    try:
        if folder.exists():
            beside = {name: folder / f".{name}.{own}" for name in writers}
        else:
            shutil.rmtree(new, ignore_errors=True)  # of a killed process of the same number
            new.mkdir(parents=True)
            beside = {name: new / name for name in writers}
        try:
            for name, content in writers.items():
                _write(beside[name], content)
            with stopping():  # a signal waits until all of them are in place
                if not new.exists() or not _renamed(new, folder):
                    for name in remove:
                        (folder / name).unlink(missing_ok=True)
                    for name in writers:
                        os.replace(beside[name], folder / name)
        finally:
            for part in beside.values():
                part.unlink(missing_ok=True)
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write to the folder {folder}: expected a folder that can be written to, "
            f"got {reason!r}"
        ) from error
    return [folder / name for name in writers]


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object of a file; raises `InputError` that names `what` and the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{what} {path} must be one JSON object")
    return found


def _write(path: Path, content: Content) -> None:
    """Write a file and `fsync` it: renamed before that, it may be empty after a power cut."""
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _renamed(new: Path, folder: Path) -> bool:
    """Rename a new folder to its name; return False if another process has made one there since."""
    try:
        os.rename(new, folder)
    except OSError:
        if not folder.is_dir():
            raise
        return False
    return True
