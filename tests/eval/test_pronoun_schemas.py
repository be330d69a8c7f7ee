"""Test the bundled sentences, files of one's own, and the places of words among their pieces."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
import tiny_masked

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import (
    BUNDLED,
    MASK,
    PAPER,
    Schema,
    parse_schema,
    place,
    read_schemas,
)

HEAD = "pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2"
LINE = "a\tAnn met Paul near [MASK] car.\tAnn\ther\tPaul\this"
HE, SHE = {"he", "him", "his"}, {"she", "her"}


@pytest.fixture(scope="module")
def pairs():
    """The bundled pairs by name."""
    found = defaultdict(list)
    for schema in read_schemas():
        found[schema.pair].append(schema)
    assert all(len(pair) == 2 for pair in found.values())
    return found


def is_he(schema, which):
    assert schema.fillers[which] in HE | SHE
    return schema.fillers[which] in HE


def test_there_are_as_many_pairs_as_the_page_says(pairs):
    kinds = ((name.split("-")[0], *sorted(pair[0].fillers)) for name, pair in pairs.items())
    assert Counter(kinds) == {
        ("turn", "he", "she"): 24,
        ("turn", "her", "him"): 4,
        ("turn", "her", "his"): 6,
        ("swap", "he", "she"): 4,
        ("swap", "her", "him"): 4,
        ("swap", "her", "his"): 8,
    }


def test_genders_and_orders_are_balanced(pairs):
    schemas = read_schemas()
    meant = [schema for schema in schemas if schema.intended is not None]
    firsts = {
        kind: [is_he(pair[0], 0) for name, pair in pairs.items() if kind in name]
        for kind in ("turn", "swap")
    }
    for halves in (
        [is_he(schema, 0) for schema in schemas],
        [schema.intended for schema in meant],
        [is_he(schema, schema.intended) for schema in meant],
        *firsts.values(),
    ):
        assert sum(halves) == len(halves) / 2
    genders = {(each.referents[k], is_he(each, k)) for each in schemas for k in (0, 1)}
    assert len(genders) == len(dict(genders))  # a word's gender is always the same
    assert all(is_he(schema, 0) != is_he(schema, 1) for schema in schemas)


def test_pairs_differ_in_one_thing(pairs):
    for name, (one, other) in pairs.items():
        words, others = (re.findall(r"\[MASK\]|\w+|\S", each.sentence) for each in (one, other))
        if name.startswith("swap"):
            first, second = one.referents
            swapped = [{first: second, second: first}.get(word, word) for word in words]
            assert others == swapped
            assert other.referents == (second, first)
            assert one.intended is other.intended is None
        else:
            assert (other.referents, other.fillers) == (one.referents, one.fillers)
            assert (one.intended, other.intended) == (0, 1)
            # One stretch of words: what is left of the longest common beginning and end.
            start = next(k for k in range(len(words)) if words[k] != others[k])
            end = next(k for k in range(len(words)) if words[-1 - k] != others[-1 - k])
            changed = [words[start : len(words) - end], others[start : len(others) - end]]
            assert all(len(part) <= 6 and MASK not in part for part in changed)


def test_no_sentence_comes_twice_and_the_papers_are_as_published():
    sentences = [schema.sentence for path in (BUNDLED, PAPER) for schema in read_schemas(path)]
    assert len(set(sentences)) == len(sentences) == 102
    assert [(each.sentence, each.referents, each.fillers) for each in read_schemas(PAPER)] == [
        ("The author talked to Sara about [MASK] book.", ("author", "Sara"), ("his", "her")),
        ("Mary convinced John of [MASK] love.", ("Mary", "John"), ("her", "his")),
    ]


def test_a_users_file(tmp_path):
    path = tmp_path / "own.tsv"
    other = "a\tPaul met Ann near [MASK] car.\tPaul\this\tAnn\ther\tAnn"
    path.write_bytes(f"\ufeff# a note\r\n\r\n{HEAD}\tintended\r\n{LINE}\t-\r\n{other}\r\n".encode())
    one, two = read_schemas(path)
    assert (one.intended, two.intended) == (None, 1)
    assert (one.pair, two.pair) == ("a", "a")
    assert one.fillers == ("her", "his")
    assert one.where == f"{path}, line 4"


#: What is replaced in a good line, by what, and the complaint.
SPOILT = [
    ("[MASK]", "his", r"must hold \[MASK\] once, got it 0 times"),
    ("car", "[MASK]", r"must hold \[MASK\] once, got it 2 times"),
    ("\tAnn\t", "\tAn\t", "the referent 'An' must occur once as a whole"),
    ("car", "Ann", "the referent 'Ann' must occur once .*, got it 2"),
    ("\tAnn\t", "\t\t", "the referent '' must occur once"),
    ("Ann met Paul near [MASK]", "Paul near [MASK] met Ann", "the first referent must stand b"),
    ("\ther", "\this", "the fillers must be two different words"),
    ("\ther", "\ther own", "a filler must be one word, got 'her own'"),
    ("a\tAnn", "\tAnn", "the pair must have a name"),
    (LINE, "a\tb", "expected 6 columns with tabs between them, got 2"),
]
THREE = "\n".join(LINE.replace("car", thing) for thing in ("car", "house", "dog"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((f"{HEAD}\n{LINE.replace(old, new)}", f"line 3: .*{text}") for old, new, text in SPOILT),
        (f"{HEAD}\n{LINE}\n{LINE}", "line 4: a sentence may stand in a file once"),
        (f"{HEAD}\n{THREE}", "line 5: a pair must have at most two sentences"),
        (f"{HEAD}\tintended\n{LINE}\tEve", "line 3: intended must be 'Ann', 'Paul' or '-', got 'E"),
        ("", "must hold a line with the columns' names and at least one sentence"),
        (HEAD, "at least one sentence, got 1 lines"),
        (f"{HEAD}\tcolour\n{LINE}\tred", "line 2: the columns must be pair, sentence"),
        (f"pair\n{LINE}", "line 2: the columns must be pair, sentence"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_unusable_files_are_named_by_line(tmp_path, content, message):
    path = tmp_path / "own.tsv"
    if isinstance(content, str):
        content = f"# a note\n{content}\n".encode()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_schemas(path)
    assert str(path) in str(caught.value)


def test_a_sentence_from_the_command_line():
    found = parse_schema("Ann's dog met Paul near [MASK] car. | Ann = her | Paul=his")
    assert found == Schema("Ann's dog met Paul near [MASK] car.", ("Ann", "Paul"), ("her", "his"))
    assert found.span(0) == (0, 3)
    for text in ("Ann met [MASK].", "Ann [MASK] Paul | Ann=her", "Ann [MASK] Paul | Ann | Paul"):
        with pytest.raises(InputError, match="a sentence must be given as"):
            parse_schema(text)


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


@pytest.mark.parametrize(
    ("kind", "sentence", "fillers", "seen"),
    [
        ("word_pieces", "Emma led David because [MASK] knew.", ("she", "he"), ["she", "he"]),
        ("byte_pairs", "Emma led David because [MASK] knew.", ("she", "he"), ["Ġshe", "Ġhe"]),
        ("byte_pairs", "[MASK] led Emma and David.", ("e", "d"), ["e", "d"]),  # no space before
    ],
)
def test_fillers_are_what_stands_in_the_masks_place(kind, sentence, fillers, seen, request):
    tokenizer = request.getfixturevalue(kind)
    found = place(tokenizer, Schema(sentence, ("Emma", "David"), fillers))
    assert found.ids[found.mask] == tokenizer.mask_id
    assert tokenizer.decode(found.fillers) == seen


@pytest.mark.parametrize(
    ("kind", "sentence", "first", "message"),
    [
        ("word_pieces", "Emma led", "grandson", r"filler 'grandson' must be one .*, got 2"),
        ("byte_pairs", "Emma led", "grandson", "filler 'grandson' must be one word piece"),
        ("word_pieces", "Emma led", "xe", "the model does not know the filler 'xe'"),
        ("word_pieces", "Emma led", "He", "which reads 'He' and 'he' alike"),
        ("byte_pairs", "Emma <mask>", "she", "one mask token '<mask>' of the model, got 2"),
    ],
)
def test_what_the_tokenizer_cannot_read_is_refused(kind, sentence, first, message, request):
    schema = Schema(f"{sentence} David as [MASK] knew.", ("Emma", "David"), (first, "he"))
    with pytest.raises(InputError, match=message):
        place(request.getfixturevalue(kind), schema)


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
