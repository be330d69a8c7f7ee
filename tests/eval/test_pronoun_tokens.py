"""Test the places of referents and fillers among word pieces against the library's offsets."""

from __future__ import annotations

import pytest
import tiny_masked

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import MASK, PAPER, Schema, place, read_schemas


@pytest.fixture(scope="module")
def byte_pairs():
    return tiny_masked.byte_pairs()


@pytest.fixture(scope="module")
def word_pieces():
    return tiny_masked.tokenizer()


@pytest.mark.parametrize("kind", ["word_pieces", "byte_pairs"])
def test_referents_are_the_pieces_that_overlap_them(kind, request):
    tokenizer = request.getfixturevalue(kind)
    token = {"word_pieces": "[MASK]", "byte_pairs": "<mask>"}[kind]
    lengths = set()
    for schema in (*read_schemas(), *read_schemas(PAPER)):
        found = place(tokenizer, schema)
        encoding = tokenizer.backend.encode(schema.sentence.replace(MASK, token))
        assert list(found.ids) == encoding.ids
        assert tokenizer.decode([encoding.ids[found.mask]]) == [token]
        shift = len(token) - len(MASK)
        for which, pieces in enumerate(found.referents):
            start, end = schema.span(which)
            if start > schema.sentence.index(MASK):
                start, end = start + shift, end + shift
            # A piece may be nothing but the space before a word, and has no place of its own then.
            overlapping = [
                index
                for index, (left, right) in enumerate(encoding.offsets)
                if (left < end and right > start) or left == right == start > 0
            ]
            assert list(pieces) == overlapping
            lengths.add(len(pieces))
    assert max(lengths) > 1  # or nothing was shown about several pieces


def test_fillers_are_what_stands_in_the_masks_place(word_pieces, byte_pairs):
    schema = Schema("Emma led David because [MASK] knew.", ("Emma", "David"), ("she", "he"))
    assert word_pieces.decode(place(word_pieces, schema).fillers) == ["she", "he"]
    assert byte_pairs.decode(place(byte_pairs, schema).fillers) == ["Ġshe", "Ġhe"]


def test_a_mask_that_begins_the_sentence(byte_pairs):
    schema = Schema("[MASK] led Emma and David.", ("Emma", "David"), ("e", "d"))
    found = place(byte_pairs, schema)
    assert found.mask == 1
    assert byte_pairs.decode(found.fillers) == ["e", "d"]  # no space before them


def test_a_filler_of_several_pieces_is_refused(word_pieces, byte_pairs):
    schema = Schema("Emma led David as [MASK] knew.", ("Emma", "David"), ("grandson", "he"))
    with pytest.raises(InputError, match=r"filler 'grandson' must be one .*, got 2"):
        place(word_pieces, schema)
    with pytest.raises(InputError, match="filler 'grandson' must be one word piece"):
        place(byte_pairs, schema)


def test_a_filler_outside_the_vocabulary_is_refused(word_pieces):
    schema = Schema("Emma led David as [MASK] knew.", ("Emma", "David"), ("xe", "he"))
    with pytest.raises(InputError, match="the model does not know the filler 'xe'"):
        place(word_pieces, schema)


def test_fillers_that_the_model_reads_alike_are_refused(word_pieces):
    schema = Schema("Emma led David as [MASK] knew.", ("Emma", "David"), ("He", "he"))
    with pytest.raises(InputError, match="which reads 'He' and 'he' alike"):
        place(word_pieces, schema)


def test_the_models_own_mask_in_the_sentence_is_refused(byte_pairs):
    schema = Schema("Emma <mask> David as [MASK] knew.", ("Emma", "David"), ("she", "he"))
    with pytest.raises(InputError, match="must hold one mask token '<mask>' of the model, got 2"):
        place(byte_pairs, schema)


def test_a_referent_that_has_no_pieces_of_its_own_is_refused():
    class Joined:
        """Makes one token of two neighbouring words."""

        mask_id, unk_id = 1, 0
        words = ("<unk>", "[MASK]", "Ann met", "Paul", "as", "he", "she", "knew")

        def encode(self, text):
            parts = text.replace("Ann met", "Ann_met").replace(".", "").split()
            known = [part.replace("_", " ") for part in parts]
            return [self.words.index(part) if part in self.words else 0 for part in known]

        def decode(self, ids):
            return [self.words[number] for number in ids]

    schema = Schema("Ann met Paul as [MASK] knew.", ("Ann", "Paul"), ("she", "he"))
    with pytest.raises(InputError, match="the referent 'Ann' must be word pieces of its own"):
        place(Joined(), schema)
