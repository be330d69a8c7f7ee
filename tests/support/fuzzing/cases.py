"""What a case is, a folder of files, and what a reader is: a function, good files and an oracle."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["Case", "Reader", "lay_out", "size_of", "sweep"]

#: File name -> content; None is a folder in the file's place.
Case = Mapping[str, bytes | None]


def nothing(folder: Path, case: Case, value: Any) -> None:
    """Stand for an oracle where there is none."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """One way into the project.

    Attributes
    ----------
    name
        As reports have it.
    seeds
        Makes the good cases that the others are made of; called once.
    read
        From the folder that a case lies in to what was read. Its error may be `InputError` alone.
    mutate
        Makes a case of a good one; all cases of the reader, for splices, come as the third.
    oracle
        Raises `AssertionError` if what was read of a case is wrong.
    share
        How many of a large run's cases are this reader's, beside the others'.
    room
        Bytes that reading a small case may take, the imports of its first time left out.
    names_file
        Whether an error must name the file or its folder; no for text of the command line.
    """

    name: str
    seeds: Callable[[], Sequence[Case]]
    read: Callable[[Path], Any]
    mutate: Callable[[Random, Case, Sequence[Case]], Case]
    oracle: Callable[[Path, Case, Any], None] = nothing
    share: float = 1.0
    room: int = 32 << 20
    names_file: bool = True


def size_of(case: Case) -> int:
    """Return the bytes of all files."""
    return sum(len(content or b"") for content in case.values())


def sweep(folder: Path) -> None:
    """Empty a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def lay_out(folder: Path, case: Case) -> None:
    """Write a case to a folder, which holds nothing else afterwards."""
    sweep(folder)
    for name, content in case.items():
        path = folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)
