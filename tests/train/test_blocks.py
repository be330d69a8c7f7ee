"""Test that changed, moved and missing blocks are detected by their checksum."""

import itertools

import numpy as np
import pytest

from jaxflow.train import prepared as blocks
from jaxflow.train.prepared import SEAL, SealedBlocks, sealed_blocks

SPLITS = {
    "train": [(f"the key {row}", row % 2, -1) for row in range(10)],
    "test": [(f"the cabinet {row}", row % 2, row) for row in range(4)],
}


@pytest.fixture
def stored(monkeypatch):
    """Blocks of four rows as TFDS gives them back: texts as bytes."""
    monkeypatch.setattr(blocks, "BLOCK", 4)
    made = sealed_blocks("corpus", SPLITS, ("text", "label", "place"))
    return {name: [as_read(block) for _, block in found] for name, found in made.items()}


def as_read(block):
    return {
        name: value.encode() if isinstance(value, str) else value for name, value in block.items()
    }


def opened(source, name="train", corpus="corpus", splits=SPLITS):
    return SealedBlocks(source, corpus, splits, name)


def test_blocks_come_back_as_they_were(stored):
    for name, rows in SPLITS.items():
        found = opened(stored[name], name)
        assert [block["text"].count(b"\n") + 1 for block in found] == (
            [4, 4, 2] if name == "train" else [4]
        )
        lines = [line for block in found for line in block["text"].decode().split("\n")]
        labels = np.concatenate([block["label"] for block in found])
        places = np.concatenate([block["place"] for block in found])
        assert list(zip(lines, labels.tolist(), places.tolist(), strict=True)) == rows
        assert all(block.keys() == {"text", "label", "place"} for block in found)
        assert {labels.dtype, places.dtype} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    "order", [o for n in (2, 3) for o in itertools.product(range(3), repeat=n)]
)
def test_blocks_lost_doubled_or_moved(stored, order):
    source = [stored["train"][place] for place in order]
    if order == (0, 1, 2):
        assert len(list(opened(source))) == 3
        return
    with pytest.raises(ValueError, match="the checksum of block"):
        list(opened(source))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "test"}, "the checksum of block 0"),
        ({"corpus": "another"}, "the checksum of block 0"),
        ({"splits": {"train": []}}, "the checksum of block 0"),
        ({"splits": {**SPLITS, "val": []}}, "the checksum of block 0"),
    ],
)
def test_blocks_of_another_place(stored, options, message):
    with pytest.raises(ValueError, match=message):
        opened(stored["train"], **options)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda block: {**block, "text": block["text"].replace(b"key", b"kez")},
        lambda block: {**block, "text": block["text"] + b"\n"},
        lambda block: {**block, "label": 1 - block["label"]},
        lambda block: {**block, "label": block["label"].astype(np.int64)},
        lambda block: {**block, "label": block["place"], "place": block["label"]},
        lambda block: {**block, "label": block["label"][:-1]},
        lambda block: {name: value for name, value in block.items() if name != "place"},
        lambda block: {**block, "more": block["label"]},
        lambda block: {**block, SEAL: block[SEAL][::-1]},
    ],
)
def test_a_block_that_holds_something_else(stored, change):
    source = [*stored["train"]]
    source[1] = change(source[1])
    found = opened(source)
    assert found[0]["label"].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="the checksum of block 1"):
        found[1]


def test_no_blocks_and_places_beyond_them(stored):
    with pytest.raises(ValueError, match="the split train has no blocks"):
        opened([])
    for place in (-1, 3):
        with pytest.raises(IndexError):
            opened(stored["train"])[place]
    assert len(opened(stored["train"])[1:]) == 2
