"""Define the protocol of tokenizers, and a tokenizer of whole words."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from jaxflow.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[UNK]")
PAD, CLS, UNK = range(3)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A text, or a pair of texts, as a model's n tokens, special ones included.

    Attributes
    ----------
    ids
        Their numbers.
    tokens
        Their entries in the vocabulary.
    words
        The word that each belongs to, counted from 0 over both texts; None for special tokens.
    spans
        First character of each in its text, and the one after its last; (0, 0) for special tokens
        that the text does not hold.
    texts
        The text that each is of, 0 or 1; None for special tokens that no text holds.
    types
        The segment of each, ``token_types`` of a model that has segments (`Model.has_segments`).
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    words: tuple[int | None, ...]
    spans: tuple[tuple[int, int], ...]
    texts: tuple[int | None, ...]
    types: tuple[int, ...]


class Tokenizer(Protocol):
    """The protocol of tokenizers, as models use them."""

    def __len__(self) -> int:
        """Return the size of the vocabulary."""

    @property
    def pad_id(self) -> int | None:
        """Number of the padding token; this and the others are None where there is none."""

    @property
    def unk_id(self) -> int | None:
        """Number of the token for what the vocabulary lacks."""

    @property
    def cls_id(self) -> int | None:
        """Number of the token that a text begins with."""

    @property
    def sep_id(self) -> int | None:
        """Number of the token that a text ends with."""

    @property
    def mask_id(self) -> int | None:
        """Number of the mask token."""

    def encode(self, text: str) -> list[int]:
        """Return a text's numbers, special tokens included."""

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Encode texts to int32 ``[B, n]``, padded to `length` or to the longest."""

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the vocabulary's entries of the numbers."""

    def read(self, text: str, pair: str | None = None) -> Pieces:
        """Return the tokens of a text or a pair, with the words and places they come from."""


def stack(rows: Sequence[Sequence[int]], length: int | None, pad_id: int | None) -> np.ndarray:
    """Pad rows of numbers to int32 ``[B, n]``.

    Raises `InputError` if a row is longer than `length`, or rows differ and there is nothing to pad
    with.
    """
    longest = max((len(row) for row in rows), default=1)
    if length is not None and longest > length:
        raise InputError(f"texts must be at most {length} tokens with [CLS], got {longest}")
    n = length or longest
    if pad_id is None and any(len(row) < n for row in rows):
        raise InputError(
            "texts must be of equal length for this tokenizer, which has no padding token: give "
            "them one by one"
        )
    batch = np.full((len(rows), n), pad_id or 0, np.int32)
    for row, numbers in zip(batch, rows, strict=True):
        row[: len(numbers)] = numbers
    return batch


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """A word-level tokenizer: one number a word, ``[CLS]`` in front.

    Attributes
    ----------
    words
        The vocabulary, ``[PAD]``, ``[CLS]`` and ``[UNK]`` first; a word's place is its number.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[:3] != SPECIAL_TOKENS:
            raise InputError(f"a vocabulary must begin with {SPECIAL_TOKENS}, got {self.words[:3]}")
        if len(set(self.words)) != len(self.words):
            word, times = collections.Counter(self.words).most_common(1)[0]
            raise InputError(f"a vocabulary must name each word once, got {word!r} {times} times")

    pad_id: ClassVar[int] = PAD
    cls_id: ClassVar[int] = CLS
    unk_id: ClassVar[int] = UNK
    sep_id: ClassVar[None] = None
    mask_id: ClassVar[None] = None

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self.words[:5]))
        return f"WordTokenizer({len(self.words):,} words: {first}{', ...' * (len(self.words) > 5)})"

    @cached_property
    def _ids(self) -> dict[str, int]:
        first = len(SPECIAL_TOKENS)  # which no word of a text is, however it is spelt
        return {word: number for number, word in enumerate(self.words[first:], first)}

    @classmethod
    def build(cls, sentences: Iterable[str], size: int = 10_000) -> WordTokenizer:
        """Take the `size` most common words of the sentences, ties in alphabetical order."""
        counts = collections.Counter(word for text in sentences for word in text.split(" "))
        for special in SPECIAL_TOKENS:
            counts.pop(special, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL_TOKENS, *ranked[:size]))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids or word in SPECIAL_TOKENS

    def encode(self, text: str) -> list[int]:
        """Return the numbers of ``[CLS]`` and the words, which single spaces separate.

        Words outside the vocabulary become ``[UNK]``.
        """
        return [CLS, *(self._ids.get(word, UNK) for word in text.split(" "))]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of the numbers, special tokens included.

        Raises
        ------
        InputError
            If a number is outside the vocabulary.
        """
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < len(self.words):
                raise InputError(f"ids must be from 0 to {len(self.words) - 1}, got {number}")
        return [self.words[number] for number in numbers]

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Encode texts to int32 ``[B, n]``, padded to `length` or to the longest.

        Raises
        ------
        InputError
            If a text is longer than `length`.
        """
        return stack([self.encode(text) for text in texts], length, PAD)

    def read(self, text: str, pair: str | None = None) -> Pieces:
        """Return the numbers of ``[CLS]`` and the words, with each one's place in the text.

        Raises
        ------
        InputError
            If there is a second text.
        """
        if pair is not None:
            raise InputError("pair must be None for a tokenizer of whole words, which reads one")
        ids = self.encode(text)
        spans = [(0, 0)]
        begin = 0
        for word in text.split(" "):
            spans.append((begin, begin + len(word)))
            begin += len(word) + 1
        words, texts = (None, *range(len(ids) - 1)), (None, *[0] * (len(ids) - 1))
        types = (0,) * len(ids)
        return Pieces(tuple(ids), tuple(self.decode(ids)), words, tuple(spans), texts, types)

    def to_bytes(self) -> bytes:
        """Return the words, one a line, in UTF-8: what `parse` reads."""
        return "".join(f"{word}\n" for word in self.words).encode()

    @classmethod
    def parse(cls, content: bytes, path: Path) -> WordTokenizer:
        """Return the tokenizer whose `to_bytes` are given; the path is for messages.

        Raises
        ------
        InputError
            If it is no vocabulary, or cut off.
        """
        try:
            *words, rest = content.decode("utf-8").split("\n")
            if rest:
                raise InputError(f"its last word {rest!r} lacks its line end")
            return cls(tuple(words))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"the vocabulary {path} cannot be read: {error}") from error
