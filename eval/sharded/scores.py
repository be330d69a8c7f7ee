"""Scores that stay in the files of their shards and are read where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, SCORES, TARGETS
from jaxflow.eval.sharded.files import read_shard_scores

__all__ = ["ShardScores"]


class ShardScores:
    """The scores of S sentences over L layers, as `jaxflow.eval.paper.scores.Scores`, by array.

    An array is read from all shards when it is asked for and kept by nobody here, so that memory
    holds as many as are at work.

    Parameters
    ----------
    paths
        The shards' files, in the order of their sentences.
    sizes
        Sentences of each.
    layers
        L.
    length
        Number of tokens with [CLS], int ``[S]``.

    Raises
    ------
    InputError
        From whatever reads an array, if a file is gone or damaged.
    """

    def __init__(
        self, paths: Sequence[Path], sizes: Sequence[int], layers: int, length: NDArray[np.integer]
    ) -> None:
        self._paths, self._ends = tuple(paths), np.cumsum(sizes)
        self.layers, self.length = layers, length

    @property
    def sentences(self) -> int:
        """Number of sentences S."""
        return len(self.length)

    @property
    def correlations(self) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """As of `SentenceScores`."""
        return {
            target: _Arrays({row: f"{target}/{row}" for row in ROWS}, self._read)
            for target in TARGETS
        }

    @property
    def saturated(self) -> NDArray[np.float64]:
        """As of `SentenceScores`."""
        return self._read("saturated")

    @property
    def entropy(self) -> Mapping[str, NDArray[np.float64]]:
        """As of `SentenceScores`."""
        return _Arrays({row: f"entropy/{row}" for row in ENTROPY_ROWS}, self._read)

    def arrays(self) -> Mapping[str, NDArray]:
        """As of `SentenceScores`."""
        return _Arrays({name: name for name in (*SCORES, "length")}, self._read)

    def _read(self, name: str) -> NDArray:
        if name == "length":
            return self.length
        whole = np.empty((self.sentences, self.layers))
        begin = 0
        for path, end in zip(self._paths, self._ends, strict=True):
            part = read_shard_scores(path, name)
            if part.shape != (end - begin, self.layers):
                raise InputError(f"the shard {path} has been changed while it was read: start anew")
            whole[begin:end] = part
            begin = end
        return whole


class _Arrays(Mapping[str, NDArray]):
    """Arrays under names, each read anew where it is asked for."""

    def __init__(self, names: Mapping[str, str], read: Callable[[str], NDArray]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> NDArray:
        return self._read(self._names[name])

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
