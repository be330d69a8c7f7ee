"""Files of a model, written beside and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jaxflow.errors import InputError

__all__ = ["OPTIONAL_FILES", "write_files", "write_folder"]

#: What a published model may have besides its configuration and its weights. Left there by an
#: earlier model, a reader would take it for the new one's.
OPTIONAL_FILES = (
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def write_files(
    folder: Path, content: Mapping[str, bytes], *, replaced: Collection[str] = ()
) -> None:
    """Write files to a folder, all or none, the last of them last; others there are left alone.

    Files called as in `replaced`, of an earlier model, are taken away where none is written.

    A new folder appears at once, with all of them. In one that is there already a reader knows by
    the last that it is finished: that of before is taken away first, so that it never stands beside
    files that are not its own.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    with _told(folder):
        if folder.exists():
            _write_into(folder, content, replaced)
        else:
            write_folder(folder, content)


def write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write a folder of files, replacing the one that is there: beside it, and renamed.

    Raises
    ------
    InputError
        If it cannot be written; the one that was there is there still.
    """
    whole = folder.absolute()
    beside = whole.with_name(f".{whole.name}.{os.getpid()}")
    aside = whole.with_name(f"{beside.name}.old")
    try:
        with _told(folder):
            shutil.rmtree(beside, ignore_errors=True)  # of a killed process of the same number
            beside.mkdir(parents=True)
            for name, data in content.items():
                _write_through(beside / name, data)
            if whole.exists():
                whole.rename(aside)
            beside.rename(whole)
    finally:
        if aside.exists() and not whole.exists():
            aside.rename(whole)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the model cannot be written to {folder}: {error.strerror or error}"
        ) from error


def _write_into(folder: Path, content: Mapping[str, bytes], replaced: Collection[str]) -> None:
    beside = {name: folder / f".{name}.{os.getpid()}" for name in content}
    try:
        for name, data in content.items():
            _write_through(beside[name], data)
        for name in (list(content)[-1], *(set(replaced) - content.keys())):
            (folder / name).unlink(missing_ok=True)
        for name in content:
            beside[name].replace(folder / name)
    finally:
        for part in beside.values():
            part.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk, so that a rename never comes before it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
