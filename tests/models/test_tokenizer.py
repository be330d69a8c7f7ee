"""Test the tokenizer of whole words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow.errors import InputError
from jaxflow.models.tokenizer import CLS, PAD, SPECIAL_TOKENS, UNK, WordTokenizer

WORDS = ("the", "keys", "to", "cabinet")
TOKENIZER = WordTokenizer((*SPECIAL_TOKENS, *WORDS))
sentences = st.lists(st.sampled_from([*WORDS, "are", "naïve"]), min_size=1, max_size=6)


def test_special_tokens_come_first() -> None:
    assert [SPECIAL_TOKENS[number] for number in (PAD, CLS, UNK)] == ["[PAD]", "[CLS]", "[UNK]"]
    assert TOKENIZER.encode("the keys are") == [CLS, 3, 4, UNK]
    assert TOKENIZER.decode([CLS, 3, 4, UNK, PAD]) == ["[CLS]", "the", "keys", "[UNK]", "[PAD]"]
    # No word of a text is a special token: it would be taken for padding, or for the first token.
    assert TOKENIZER.encode("the [PAD] [CLS]") == [CLS, 3, UNK, UNK]


def test_the_most_common_words_are_taken_ties_in_alphabetical_order() -> None:
    built = WordTokenizer.build(["b b b", "d a c", "a c", "e"], size=3)
    assert built.words == (*SPECIAL_TOKENS, "b", "a", "c")
    assert len(built) == 6
    assert "c" in built
    assert "d" not in built


@given(words=sentences)
def test_decoding_undoes_encoding_but_for_unknown_words(words: list[str]) -> None:
    expected = ["[CLS]", *(word if word in WORDS else "[UNK]" for word in words)]
    assert TOKENIZER.decode(TOKENIZER.encode(" ".join(words))) == expected


@given(batch=st.lists(sentences, min_size=1, max_size=4), extra=st.integers(0, 3))
def test_a_batch_is_padded_on_the_right(batch: list[list[str]], extra: int) -> None:
    texts = [" ".join(words) for words in batch]
    longest = 1 + max(map(len, batch))
    for length in (None, longest + extra):
        result = TOKENIZER.encode_batch(texts, length)
        assert result.dtype == np.int32
        assert result.shape == (len(texts), length or longest)
        for row, text in zip(result, texts, strict=True):
            numbers = TOKENIZER.encode(text)
            np.testing.assert_array_equal(row[: len(numbers)], numbers)
            assert (row[len(numbers) :] == PAD).all()


def test_a_text_that_is_too_long_is_named_not_cut() -> None:
    assert TOKENIZER.encode_batch(["the keys"], 3).shape == (1, 3)
    with pytest.raises(InputError, match=r"texts must be at most 2 tokens with \[CLS\], got 3"):
        TOKENIZER.encode_batch(["the keys"], 2)


def test_one_text_is_read_with_its_places_and_no_second_one() -> None:
    read = TOKENIZER.read("the keys  are")
    assert read.spans == ((0, 0), (0, 3), (4, 8), (9, 9), (10, 13))
    assert read.words == (None, 0, 1, 2, 3)
    assert read.texts == (None, 0, 0, 0, 0)
    assert read.types == (0,) * 5
    with pytest.raises(InputError, match=r"^pair must be None for a tokenizer of whole words"):
        TOKENIZER.read("the keys", "are")


@pytest.mark.parametrize("number", [-1, 7])
def test_a_number_outside_the_vocabulary_is_named(number: int) -> None:
    with pytest.raises(InputError, match=f"ids must be from 0 to 6, got {number}"):
        TOKENIZER.decode([CLS, number])


def test_a_vocabulary_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match="must begin with"):
        WordTokenizer(("the", *SPECIAL_TOKENS))
    with pytest.raises(InputError, match="must name each word once, got 'keys' 2 times"):
        WordTokenizer((*SPECIAL_TOKENS, "keys", "to", "keys"))


def test_a_vocabulary_comes_back_from_its_bytes() -> None:
    # What a line may hold without being one: characters that some tools take for line ends.
    odd = WordTokenizer((*SPECIAL_TOKENS, "naïve", "日本", "a\u2028b", "c\x85d", "e\x0cf"))
    for tokenizer in (TOKENIZER, odd):
        assert WordTokenizer.parse(tokenizer.to_bytes(), Path("vocab.txt")) == tokenizer


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[PAD]\n[CLS]\n[UNK]\nthe"])
def test_unreadable_vocabularies_are_named(content: bytes) -> None:
    with pytest.raises(InputError, match=r"the vocabulary vocab\.txt cannot be read: "):
        WordTokenizer.parse(content, Path("vocab.txt"))
