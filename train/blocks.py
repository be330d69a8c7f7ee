"""Blocks of rows as they are stored: each carries a checksum of itself and of its place.

TFDS says in files of its own which splits there are and how many records each has, and what reads
them takes its word for it: with one number changed, rows are missing or stand twice and nobody
complains. So a block's checksum covers what it holds, its corpus, its split, its place among how
many, and what splits there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

__all__ = ["SEAL", "Block", "SealedBlocks", "sealed_blocks"]

Block = dict[str, Any]

BLOCK = 1024  # rows
#: The feature of a block that holds its checksum.
SEAL = "seal"


def sealed_blocks(
    corpus: str, splits: Mapping[str, Sequence[tuple[Any, ...]]], names: Sequence[str]
) -> dict[str, Iterator[tuple[int, Block]]]:
    """Cut every split into blocks.

    Parameters
    ----------
    corpus
        Name of the corpus, the same as for `SealedBlocks`.
    splits
        Name -> rows, each of one line of text and numbers that int32 holds.
    names
        Of a row's fields.

    Returns
    -------
    dict
        Split -> each block with its number before it: the lines of text, joined, int32 ``[B]`` of
        each number, and the checksum.
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


class SealedBlocks(Sequence[Block]):
    """The blocks of one split, each checked when it is read.

    Parameters
    ----------
    source
        The records as they are stored.
    corpus, splits, name
        The corpus, all its splits, and the one that these are of.

    Raises
    ------
    ValueError
        If there is none; from reading one, if it is not what was written there.
    """

    def __init__(
        self, source: Sequence[Block], corpus: str, splits: Mapping[str, Any], name: str
    ) -> None:
        self._source, self._count = source, len(source)
        if not self._count:
            raise ValueError(f"the split {name} has no blocks")
        self._place = _place(corpus, splits, name, self._count)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Block: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Block]: ...
    def __getitem__(self, number: int | slice) -> Block | Sequence[Block]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(self._count))]
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
        # A text is written as one and read as bytes.
        if isinstance(value, str | bytes):
            content = value.encode() if isinstance(value, str) else value
            kind = "text"
        else:
            array = np.asarray(value)
            content, kind = array.tobytes(), f"{array.dtype}"
        digest.update(f" {name} {kind} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()
