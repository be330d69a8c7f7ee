"""Shards read ahead by the loader are those that are read when they are needed."""

from pathlib import Path

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.sharded.sentences import Places, ShardSource, read_ahead
from jaxflow.models import WordTokenizer
from jaxflow.train.corpus import open_split

TEXTS = [f"word{k % 5} word{k % 3} word{k}" for k in range(40)]
CUTS = [0, 3, 17, 18, 40]


def block(first, last):
    size = last - first
    return {
        "prefixes": "\n".join(TEXTS[first:last]).encode(),
        "labels": np.arange(first, last) % 2,
        "n_attractors": np.zeros(size, np.int32),
        "subject_index": np.full(size, -1, np.int32),
    }


@pytest.fixture
def source():
    split = open_split([block(0, 16), block(16, 32), block(32, 40)], Path("prepared"))
    tokenizer = WordTokenizer.build(TEXTS, 10)

    def places(shard):
        part = np.arange(CUTS[shard], CUTS[shard + 1])
        return Places(part[::2], {"test": part, "val": part[:1]})

    return ShardSource({"test": split, "val": split}, tokenizer, 8, [3, 0, 2], places)


def test_shards_come_in_order_and_whole(source):
    got = list(read_ahead(source))
    assert [each.scored.rows.tolist() for each in got] == [[*range(18, 40, 2)], [0, 2], [17]]
    for each in got:
        counted = each.counted["test"]
        for split in (each.scored, counted, each.counted["val"]):
            for row, tokens, label in zip(split.rows, split.tokens, split.labels, strict=True):
                expected = source.tokenizer.encode(TEXTS[row])
                assert tokens[: len(expected)].tolist() == list(expected)
                assert label == row % 2
        assert len(counted) == counted.rows[-1] - counted.rows[0] + 1


def test_damage_is_told_as_it_is(source):
    source.splits["test"].blocks[1]["labels"] = np.zeros(3, np.int32)
    shards = read_ahead(source)
    with pytest.raises(InputError, match="prepared corpus in prepared is damaged"):
        next(shards)
