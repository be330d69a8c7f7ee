"""Test how text is encoded: pieces, words and the readout."""

from __future__ import annotations

import pytest
from tiny_models import tiny

from jaxflow.errors import InputError
from jaxflow.eval.score.reading import Token, reader, with_mask_token
from jaxflow.models import load
from jaxflow.models.subword import SubwordTokenizer

TEXT = "The keys are unlikely quux."


def texts(reading):
    return [unit.text for unit in reading.units]


def test_pieces_are_shown_as_they_stand_in_the_text():
    reading = reader(tiny())(TEXT)
    assert texts(reading) == [
        "[CLS]", "The", "key", "##s", "are", "un", "##like", "##ly", "quux", ".", "[SEP]",
    ]  # fmt: skip
    assert reading.units[1] == Token("The", "the", True)
    assert reading.units[8] == Token("quux", "[UNK]", False)
    assert reading.members == tuple(range(11))
    assert (reading.place, reading.readout) == (0, 0)


def test_words_are_joined_on_request():
    reading = reader(tiny(), words=True)(TEXT)
    assert texts(reading) == ["[CLS]", "The", "keys", "are", "unlikely", "quux", ".", "[SEP]"]
    assert reading.members == (0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 7)
    assert len(reading.ids) == len(reading.members) == 11


@pytest.mark.parametrize("words", [False, True])
def test_a_masked_model_answers_at_its_mask(words):
    model = tiny("masked-lm")
    reading = reader(model, words=words)("the keys [MASK] unlikely")
    assert reading.ids[reading.place] == model.text.mask_id
    assert reading.units[reading.readout].text == "[MASK]"
    for text, count in (("the keys", 0), ("[MASK] the [MASK]", 2)):
        with pytest.raises(InputError, match=rf"must have one \[MASK\], got {count}"):
            reader(model)(text)
        assert reader(model, answer=False)(text).place == 0


@pytest.mark.parametrize("head", ["lm", "classification"])
def test_a_causal_model_answers_at_its_last_token(head):
    reading = reader(tiny(head, causal=True))("the keys are")
    assert reading.place == len(reading.ids) - 1


def test_the_mask_token_is_the_models_own():
    backend = tiny().text.backend
    model = tiny("masked-lm")
    other = type(model)(model.config, model.params, SubwordTokenizer(backend, {"mask": 7}))
    assert with_mask_token("a [MASK] b", other) == "a ##s b"
    neither = type(model)(model.config, model.params, SubwordTokenizer(backend, {}))
    assert with_mask_token("a [MASK] b", neither) == "a [MASK] b"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("  ", "must have at least one word, got an empty one"),
        ("a\ud800b", "must be valid Unicode text"),
        ("the keys " * 20, "must be at most 38 word pieces for this model, got 60"),
    ],
)
def test_unreadable_texts_are_refused(text, complaint):
    with pytest.raises(InputError, match=complaint):
        reader(tiny())(text)


def test_whole_words_are_read_as_before():
    model = load("agreement")
    reading = reader(model, words=True)("The keys quux")
    assert texts(reading) == ["[CLS]", "The", "keys", "quux"]
    assert [unit.seen for unit in reading.units] == ["[CLS]", "the", "keys", "[UNK]"]
    assert reading.ids == tuple(model.text.encode("the keys quux"))
