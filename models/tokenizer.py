"""Words to numbers and back: a fixed vocabulary with three special tokens."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxflow.errors import InputError

__all__ = ["CLS", "PAD", "SPECIAL_TOKENS", "UNK", "WordTokenizer"]

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[UNK]")
PAD, CLS, UNK = range(3)


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

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

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
        return word in self._ids

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
        rows = [self.encode(text) for text in texts]
        longest = max((len(row) for row in rows), default=1)
        if length is not None and longest > length:
            raise InputError(f"texts must be at most {length} tokens with [CLS], got {longest}")
        batch = np.full((len(rows), length or longest), PAD, np.int32)
        for row, numbers in zip(batch, rows, strict=True):
            row[: len(numbers)] = numbers
        return batch

    def save(self, path: Path) -> None:
        """Write one word a line."""
        path.write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing or is no vocabulary.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the vocabulary {path} cannot be read: {error}") from error
        return cls(tuple(text.split("\n")[:-1]))
