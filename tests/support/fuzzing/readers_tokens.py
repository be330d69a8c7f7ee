"""Readers of tokenizers, and of sentences by them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzzing import model_files
from fuzzing.cases import Case, Reader
from fuzzing.mutate_text import mutate_case, mutate_text
from fuzzing.readers_models import change_file
from jaxflow.errors import InputError
from jaxflow.eval.score.reading import reader
from jaxflow.models import BertConfig, Gpt2Config, Model
from jaxflow.models.subword import read_tokenizer

__all__ = ["READERS"]

TEXTS = ("the keys to the cabinet .", "", "Unlike\tthe <mask> [MASK]  שלום \U0001f680 e\u0301")


def tokenizer_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return mutate_case(rng, case, others, change_file)


def read_and_split(folder: Path) -> Any:
    """Read a tokenizer and split texts with it; a text that cannot be split is no fault of it."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        return None
    found = []
    for text in TEXTS:
        try:
            found.append(tokenizer.read(text))
        except InputError:
            found.append(None)
    return tokenizer, found


def tokenizer_oracle(folder: Path, case: Case, value: Any) -> None:
    """What was split is what the library splits, every number is of the vocabulary."""
    from tokenizers import Tokenizer

    if value is None:
        assert not {"tokenizer.json", "vocab.txt", "vocab.json"} & {
            name for name, content in case.items() if content is not None
        }
        return
    tokenizer, found = value
    theirs = None
    if case.get("tokenizer.json") is not None:
        theirs = Tokenizer.from_str((case["tokenizer.json"] or b"").decode("utf-8"))
        theirs.no_truncation()
        theirs.no_padding()
    for text, pieces in zip(TEXTS, found, strict=True):
        if pieces is None:
            continue
        assert len(pieces.ids) == len(pieces.tokens) == len(pieces.words) == len(pieces.spans)
        assert tokenizer.decode(pieces.ids) == list(pieces.tokens)
        for begin, end in pieces.spans:
            assert 0 <= begin <= end <= len(text)
        if theirs is not None:
            assert list(pieces.ids) == theirs.encode(text).ids
    for role, number in tokenizer.special.items():
        assert number >= 0, role


@functools.cache
def _reading(kind: str) -> Callable[[str], Any]:
    if kind == "words":
        return reader(model_files.words())
    case: Case = {"vocab.txt": model_files.PIECES} if kind != "gpt2" else model_files.BYTE_PAIRS
    tokenizer = model_files.read_files(case)
    sizes: dict[str, Any] = {
        "vocabulary": 13, "positions": 12, "layers": 1, "heads": 1, "width": 2, "hidden_width": 2,
    }  # fmt: skip
    config: Any = Gpt2Config(**sizes)
    if kind != "gpt2":
        labelled = {"head": "classification", "labels": ("a", "b")}
        config = BertConfig(**sizes, **({"head": "masked-lm"} if kind == "masked" else labelled))
    return reader(Model(config, None, tokenizer), words=kind == "joined")


def sentence_reader(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        content = (folder / "text").read_bytes()
        text = content.decode("utf-8", "surrogateescape")
        return text, _reading(kind)(text)

    return read


def reading_oracle(folder: Path, case: Case, value: Any) -> None:
    text, reading = value
    assert 1 <= len(reading.ids) <= 12
    assert len(reading.members) == len(reading.ids)
    assert sorted(set(reading.members)) == list(range(len(reading.units)))
    assert 0 <= reading.place < len(reading.ids)
    assert all(0 <= number < 13 for number in reading.ids)
    for unit in reading.units:
        bare = unit.text.removeprefix("##")
        assert bare in text or not unit.text or bare in reading.units[0].text or unit.known
    padded = reading.padded(16, 0)
    np.testing.assert_array_equal(padded[: len(reading.ids)], reading.ids)


def long_texts(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change a sentence, and once in a while make a line of ten million characters of it."""
    content = mutate_text(rng, case["text"] or b"")
    if rng.random() < 0.0005:
        content = (content or b"a") * (10_000_000 // max(len(content), 1))
    return {"text": content}


def _texts() -> list[Case]:
    return [{"text": text.encode()} for text in (*TEXTS, "the keys to [MASK] cabinet")]


def _settings(name: bytes = b"[UNK]") -> bytes:
    return b'{"unk_token": {"content": "' + name + b'"}, "do_lower_case": false}'


READERS = (
    Reader(
        "tokenizer.json",
        lambda: [
            {"tokenizer.json": file, "tokenizer_config.json": _settings()}
            for file in map(model_files.tokenizer_json, ("pieces", "pairs"))
        ],
        read_and_split,
        tokenizer_case,
        tokenizer_oracle,
        share=2,
    ),
    Reader(
        "vocab.txt",
        lambda: [
            {"vocab.txt": model_files.PIECES, "special_tokens_map.json": _settings()},
            {"vocab.txt": model_files.PIECES},
        ],
        read_and_split,
        tokenizer_case,
        tokenizer_oracle,
        share=2,
    ),
    Reader(
        "vocab.json and merges.txt",
        lambda: [
            model_files.BYTE_PAIRS,
            {**model_files.BYTE_PAIRS, "tokenizer_config.json": _settings(b"<unk>")},
        ],
        read_and_split,
        tokenizer_case,
        tokenizer_oracle,
        share=2,
    ),
    *(
        Reader(
            f"sentence, {kind}",
            _texts,
            sentence_reader(kind),
            long_texts,
            reading_oracle,
            share=1,
            names_file=False,
        )
        for kind in ("words", "pieces", "joined", "masked", "gpt2")
    ),
)
