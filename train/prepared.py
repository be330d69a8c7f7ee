"""Prepare corpora once by TFDS and read them back, as blocks of rows with a checksum each.

TFDS writes into a temporary folder and renames it when all is done, so that a run that fails or is
killed leaves nothing that a later one would read. It records the splits and their numbers of
records in files of its own, which its reader does not check: with one number changed, rows are
missing or doubled without an error. So a block's checksum covers what it holds, its corpus, its
split, its place among how many, and what splits there are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from tensorflow_datasets.core import GeneratorBasedBuilder

Block = dict[str, Any]

BLOCK = 1024  # rows
SEAL = "seal"
"""The feature of a block that holds its checksum."""


def sealed_blocks(
    corpus: str, splits: Mapping[str, Sequence[tuple[Any, ...]]], names: Sequence[str]
) -> dict[str, Iterator[tuple[int, Block]]]:
    """Cut every split into numbered blocks: the lines joined, int32 ``[B]`` of each number, a seal.

    `corpus` is its name, the same as for `SealedBlocks`; a row is one line of text and numbers that
    int32 holds, by `names`.
    """
    return {
        name: _cut(rows, names, _place(corpus, splits, name, -(-len(rows) // BLOCK)))
        for name, rows in splits.items()
    }


def _cut(
    rows: Sequence[tuple[Any, ...]], names: Sequence[str], place: str
) -> Iterator[tuple[int, Block]]:
    for number, start in enumerate(range(0, len(rows), BLOCK)):
        lines, *numbers = zip(*rows[start : start + BLOCK], strict=True)
        arrays = np.asarray(numbers, np.int32)
        block: Block = {names[0]: "\n".join(lines), **dict(zip(names[1:], arrays, strict=True))}
        yield number, {**block, SEAL: _checksum(f"{place} {number}", block)}


class SealedBlocks:
    """The blocks of the split `name` of a corpus, each checked when it is read."""

    def __init__(
        self, source: Sequence[Block], corpus: str, splits: Mapping[str, Any], name: str
    ) -> None:
        self._source, self._count = source, len(source)
        if not self._count:
            raise ValueError(f"the split {name} has no blocks")
        self._place = _place(corpus, splits, name, self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Block:
        if not 0 <= number < self._count:
            raise IndexError(number)
        block = dict(self._source[number])
        if block.pop(SEAL) != _checksum(f"{self._place} {number}", block).encode():
            raise ValueError(f"the checksum of block {number} is another")
        return block


def _place(corpus: str, splits: Mapping[str, Any], name: str, count: int) -> str:
    return f"{corpus} {sorted(splits)} {name} {count}"


def _checksum(place: str, block: Block) -> str:
    digest = hashlib.sha256(place.encode())
    for name, value in sorted(block.items()):
        value = value.encode() if isinstance(value, str) else value  # read as bytes
        kind = "text" if isinstance(value, bytes) else str(value.dtype)
        content = value if isinstance(value, bytes) else value.tobytes()
        digest.update(f" {name} {kind} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def prepared_blocks(
    make: Callable[[], GeneratorBasedBuilder], data_dir: Path, downloads: Path
) -> dict[str, list[Block]]:
    """Read a corpus's blocks of rows into memory; else as `prepared_sources`."""
    sources = prepared_sources(make, data_dir, downloads)
    with damage_reported(data_dir):
        return {name: [source[i] for i in range(len(source))] for name, source in sources.items()}


def prepared_sources(
    make: Callable[[], GeneratorBasedBuilder], data_dir: Path, downloads: Path
) -> dict[str, SealedBlocks]:
    """Open a corpus's blocks of rows by split, preparing it first if that was not done before.

    `make` returns the builder, whose files are under `data_dir`, a folder named after everything it
    is made from; it imports TFDS. Fetched files are kept in `downloads`.
    """
    _check_writable(data_dir)
    with _quiet_tfds():
        builder = _prepared(make, data_dir, downloads)
        with damage_reported(data_dir):
            sources = builder.as_data_source()
            if not sources:
                raise ValueError("there are no splits")
            return {
                name: SealedBlocks(source, data_dir.name, sources, name)
                for name, source in sources.items()
            }


def columns(
    blocks: Sequence[Block], text: str, numbers: Sequence[str], data_dir: Path
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Join blocks: the lines of the feature `text`, and int32 ``[N]`` of each in `numbers`."""
    with damage_reported(data_dir):
        lines = tuple(line for block in blocks for line in block[text].decode().split("\n"))
        arrays = [
            np.concatenate([np.asarray(block[name], np.int32) for block in blocks])
            for name in numbers
        ]
        if any(len(array) != len(lines) for array in arrays):
            raise ValueError("the columns of a split differ in length")
    return lines, arrays


def _check_writable(data_dir: Path) -> None:
    """Raise unless the corpus is there to be read or can be written."""
    if any(data_dir.glob("*/*/*/dataset_info.json")):
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the cache folder {data_dir} cannot be written ({error.strerror or error}): give "
            f"another one, or set XDG_CACHE_HOME."
        ) from error


def _prepared(
    make: Callable[[], GeneratorBasedBuilder], data_dir: Path, downloads: Path
) -> GeneratorBasedBuilder:
    def builder() -> GeneratorBasedBuilder:
        with damage_reported(data_dir):
            return make()

    try:
        new = builder()
        new.download_and_prepare(download_dir=downloads)
    except InputError:
        raise
    except Exception as error:  # a full disk, for one, is an OSError here and a RuntimeError there
        # Another process may have prepared the same corpus and renamed its folder first.
        other = builder()
        if (Path(other.data_dir) / "dataset_info.json").exists():
            return other
        raise InputError(
            f"the corpus cannot be prepared in {data_dir}: {' '.join(str(error).split())}"
        ) from error
    # What killed processes had begun, folders and files in them. One that still prepares finds the
    # corpus prepared when its own temporary folder is gone.
    for unfinished in list(data_dir.glob("**/incomplete.*")):
        shutil.rmtree(unfinished, ignore_errors=True)
        if unfinished.is_file():
            unfinished.unlink(missing_ok=True)
    return new


@contextmanager
def damage_reported(data_dir: Path) -> Iterator[None]:
    """Report every error raised in a block as damage of the prepared corpus."""
    try:
        yield
    except Exception as error:  # TFDS, protobuf and array_record each raise kinds of their own
        raise InputError(
            f"the prepared corpus in {data_dir} is damaged ({type(error).__name__}): delete that "
            f"folder, and it is made again."
        ) from error


@contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Switch the progress bars of TFDS off, and back to what they were."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = getattr(tqdm_utils, "_active", True)
    tqdm_utils.display_progress_bar(False)
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(before)
