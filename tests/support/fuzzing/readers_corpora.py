"""Readers of what TFDS has prepared: blocks of rows in array_record files, and its own records."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzzing import model_files
from fuzzing.cases import Case, Reader
from fuzzing.mutate_json import mutate_json
from fuzzing.mutate_text import mutate_bytes, mutate_case
from jaxflow.train import prepared as blocks
from jaxflow.train.corpus import load_corpus, open_corpus
from jaxflow.train.sst2 import load_sst2

__all__ = ["READERS", "corpus_seeds", "sst2_seeds"]

#: Rows of a split, and how many a block has, which is a thousand in earnest.
ROWS, BLOCK = {"train": 3, "val": 5, "test": 10}, 4
_LABELS = ("VBZ", "VBP")


def _source(words: str, rows: int) -> str:
    return "".join(f"{_LABELS[row % 3 == 0]}\tthe key {words} {row}\n" for row in range(rows))


def _prepared(sources: dict[str, str], prepare: Any) -> list[Case]:
    before, blocks.BLOCK = blocks.BLOCK, BLOCK
    try:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "source").mkdir()
            for file, text in sources.items():
                (Path(name) / "source" / file).write_text(text)
            prepare(Path(name) / "source", cache=Path(name))
            return [model_files.files(Path(name))]
    finally:
        blocks.BLOCK = before


@functools.cache
def corpus_seeds() -> list[Case]:
    sources = {f"numpred.{name}": _source(name, rows) for name, rows in ROWS.items()}
    return _prepared(sources, functools.partial(load_corpus, "simple"))


@functools.cache
def sst2_seeds() -> list[Case]:
    texts = {
        name: "".join(f"a film of {name} {row}\t{row % 2}\n" for row in range(rows))
        for name, rows in {"train": 6, "dev": 3}.items()
    }
    return _prepared({f"{name}.tsv": text for name, text in texts.items()}, load_sst2)


def prepared_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change what was prepared, and never what it was made from."""

    def change(rng: Random, name: str, content: bytes) -> bytes:
        return mutate_json(rng, content) if name.endswith(".json") else mutate_bytes(rng, content)

    source = {name: content for name, content in case.items() if name.startswith("source/")}
    made = {name: content for name, content in case.items() if name not in source}
    records = sorted(name for name in made if "array_record" in name)
    what = rng.random()
    if what < 0.1:  # a split's records under another's name
        one, other = rng.sample(records, 2)
        made[one], made[other] = made[other], rng.choice((made[one], made[other]))
    elif what < 0.3:
        name = rng.choice(records)
        made[name] = _rewritten(rng, made[name] or b"", [made[name] or b"" for name in records])
    else:
        made = mutate_case(rng, made, [made], change)
    return {**source, **made}


def _rewritten(rng: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Write records anew, in a whole file: some lost, twice, in other orders, of other splits."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    with tempfile.TemporaryDirectory() as name:
        found = []
        for data in (content, rng.choice(others)):
            (Path(name) / "in").write_bytes(data)
            reader = ArrayRecordReader(f"{name}/in")
            found.append(reader.read_all())
            reader.close()
        records, further = found
        what = rng.randrange(5)
        if what == 0:
            records = records[: rng.randrange(len(records))]
        elif what == 1:
            records = records + records[:1]
        elif what == 2:
            records = records[::-1]
        elif what == 3:
            records[rng.randrange(len(records))] = rng.choice(further)
        else:
            place = rng.randrange(len(records))
            records[place] = mutate_bytes(rng, records[place])
        writer = ArrayRecordWriter(f"{name}/out", "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return (Path(name) / "out").read_bytes()


def read_both(folder: Path) -> Any:
    """Read the corpus into memory, and its held-out splits from the disk."""
    whole = load_corpus("simple", folder / "source", cache=folder)
    stored = open_corpus("simple", folder / "source", cache=folder)
    return whole, {name: split.read(np.arange(len(split))) for name, split in stored.items()}


def corpus_oracle(folder: Path, case: Case, value: Any) -> None:
    """The rows are those of the files that the corpus was made from."""
    whole, stored = value
    assert whole.keys() == ROWS.keys()
    assert stored.keys() == ROWS.keys() - {"train"}
    for name, split in (*whole.items(), *stored.items()):
        lines = [line.split("\t") for line in _source(name, ROWS[name]).splitlines()]
        assert list(split.prefixes) == [text for _, text in lines]
        assert split.labels.tolist() == [_LABELS.index(label) for label, _ in lines]
        assert (split.subject_index == -1).all()


def sst2_oracle(folder: Path, case: Case, value: Any) -> None:
    sources = {name: (folder / "source" / f"{name}.tsv").read_text() for name in ("train", "dev")}
    assert value.keys() == sources.keys()
    for name, split in value.items():
        lines = [line.split("\t") for line in sources[name].splitlines()]
        assert list(split.texts) == [text for text, _ in lines]
        assert split.labels.tolist() == [int(label) for _, label in lines]


READERS = (
    Reader(
        "prepared corpus",
        corpus_seeds,
        read_both,
        prepared_case,
        corpus_oracle,
        share=0.3,
    ),
    Reader(
        "prepared sst2",
        sst2_seeds,
        lambda folder: load_sst2(folder / "source", cache=folder),
        prepared_case,
        sst2_oracle,
        share=0.3,
    ),
)
