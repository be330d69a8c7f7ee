"""A split's rows: in memory, or on disk and read where they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.train.prepared import columns, damage_reported

__all__ = ["NUMBERS", "Split", "StoredSplit", "open_split"]

#: A record's columns of numbers, in the order of `Split`'s fields.
NUMBERS = ("labels", "n_attractors", "subject_index")


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split, in the order of their source.

    Attributes
    ----------
    prefixes : sequence of str
        Words before the verb, separated by single spaces; [N].
    labels : numpy.ndarray
        0 singular, 1 plural; int32 [N].
    n_attractors : numpy.ndarray
        Nouns of the other number between subject and verb, -1 unknown; int32 [N].
    subject_index : numpy.ndarray
        Word of the prefix, from 0 and without ``[CLS]``, -1 unknown; int32 [N].
    """

    prefixes: Sequence[str]
    labels: np.ndarray
    n_attractors: np.ndarray
    subject_index: np.ndarray

    def __len__(self) -> int:
        return len(self.prefixes)

    def where(self, chosen: np.ndarray) -> Split:
        """Return the rows at which the boolean array ``chosen`` [N] is True."""
        return Split(
            tuple(self.prefixes[i] for i in np.flatnonzero(chosen).tolist()),
            self.labels[chosen],
            self.n_attractors[chosen],
            self.subject_index[chosen],
        )


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """The rows of one split that stay on disk, in the order of their source.

    Attributes
    ----------
    blocks : sequence
        The records that hold the rows, each read from disk when it is asked for.
    starts : numpy.ndarray
        Row at which each block begins, and behind the last one where it ends; int64 [blocks + 1].
    data_dir : Path
        Where they lie, for complaints.
    rows : numpy.ndarray
        Place of each row among all rows of the blocks, ascending; int64 [N].
    words : numpy.ndarray
        Words of each row's prefix; int32 [N].
    n_attractors : numpy.ndarray
        As in `Split`; int32 [N].
    """

    blocks: Sequence[dict[str, Any]]
    starts: np.ndarray
    data_dir: Path
    rows: np.ndarray
    words: np.ndarray
    n_attractors: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: np.ndarray) -> StoredSplit:
        """Return the rows at ascending `places` [k], still on disk."""
        names = ("rows", "words", "n_attractors")
        return dataclasses.replace(self, **{name: getattr(self, name)[places] for name in names})

    def read(self, places: np.ndarray) -> Split:
        """Read the rows at ascending `places` [k] into memory, block by block.

        Raises
        ------
        InputError
            If the prepared corpus is damaged.
        """
        rows = self.rows[places]
        block_of = np.searchsorted(self.starts, rows, side="right") - 1
        prefixes: list[str] = []
        parts: list[list[np.ndarray]] = []
        for block in np.unique(block_of):
            lines, arrays = _read(self.blocks, int(block), self.data_dir)
            within = rows[block_of == block] - self.starts[block]
            prefixes += [lines[place] for place in within.tolist()]
            parts.append([array[within] for array in arrays])
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Split(tuple(prefixes), *joined or [np.zeros(0, np.int32)] * len(NUMBERS))


def open_split(blocks: Sequence[dict[str, Any]], data_dir: Path) -> StoredSplit:
    """Walk over a split's blocks once, keeping of each row a few numbers.

    Raises
    ------
    InputError
        If the prepared corpus is damaged.
    """
    words, attractors = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for block in range(len(blocks)):
        lines, arrays = _read(blocks, block, data_dir)
        words.append(np.fromiter((line.count(" ") + 1 for line in lines), np.int32, len(lines)))
        attractors.append(arrays[NUMBERS.index("n_attractors")])
    sizes = [len(part) for part in words]  # a first one of none, where the first block begins
    rows = np.arange(sum(sizes))
    return StoredSplit(
        blocks, np.cumsum(sizes), data_dir, rows, np.concatenate(words), np.concatenate(attractors)
    )


def _read(
    blocks: Sequence[dict[str, Any]], block: int, data_dir: Path
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    with damage_reported(data_dir):
        record = blocks[block]
    return columns([record], "prefixes", NUMBERS, data_dir)
