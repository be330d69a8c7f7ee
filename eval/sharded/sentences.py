"""The sentences of shards, read from disk and encoded while the shard before is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxflow.models import WordTokenizer
from jaxflow.train.batches import EncodedSplit, encode_split
from jaxflow.train.corpus import StoredSplit

__all__ = ["Places", "ShardSentences", "ShardSource", "read_ahead"]


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where a shard's sentences are.

    Attributes
    ----------
    scored
        Places in the split ``test`` of the S sentences that are scored, ascending; int64 ``[S]``.
    counted
        Split -> places in it of those whose right answers are counted, ascending int64.
    """

    scored: np.ndarray
    counted: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardSentences:
    """What is at the places of a shard, encoded."""

    scored: EncodedSplit
    counted: Mapping[str, EncodedSplit]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardSource:
    """Shards by number, each read when it is asked for: a random-access source for the loader.

    Attributes
    ----------
    splits, tokenizer, positions
        What is read, and how it is encoded.
    shards
        Their numbers, in the order in which they are read.
    places
        What gives a shard's places.
    """

    splits: Mapping[str, StoredSplit]
    tokenizer: WordTokenizer
    positions: int
    shards: Sequence[int]
    places: Callable[[int], Places]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> ShardSentences:
        places = self.places(self.shards[int(number)])
        counted = {name: self._encoded(name, these) for name, these in places.counted.items()}
        return ShardSentences(self._encoded("test", places.scored), counted)

    def _encoded(self, split: str, places: np.ndarray) -> EncodedSplit:
        stored = self.splits[split]
        encoded = encode_split(stored.read(places), self.tokenizer, self.positions)
        return dataclasses.replace(encoded, rows=stored.rows[places])


def read_ahead(source: ShardSource) -> Iterator[ShardSentences]:
    """Iterate over the shards in order; the loader's thread reads one ahead.

    Raises
    ------
    InputError
        If the prepared corpus is damaged.
    """
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
