"""Test the bundled sentences, and errors that name the line of a bad file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import BUNDLED, MASK, PAPER, Schema, parse_schema, read_schemas

HEAD = "pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2"
LINE = "a\tAnn met Paul near [MASK] car.\tAnn\ther\tPaul\this"
HE, SHE = {"he", "him", "his"}, {"she", "her"}


def shipped_pairs():
    pairs = defaultdict(list)
    for schema in read_schemas():
        pairs[schema.pair].append(schema)
    return pairs


def is_he(schema, which):
    assert schema.fillers[which] in HE | SHE
    return schema.fillers[which] in HE


def test_there_are_as_many_pairs_as_the_page_says():
    kinds = Counter(name.split("-")[0] for name in shipped_pairs())
    assert kinds == {"turn": 34, "swap": 16}
    assert all(len(pair) == 2 for pair in shipped_pairs().values())
    forms = Counter(
        (name.split("-")[0], *sorted(pair[0].fillers)) for name, pair in shipped_pairs().items()
    )
    assert forms == {
        ("turn", "he", "she"): 24,
        ("turn", "her", "him"): 4,
        ("turn", "her", "his"): 6,
        ("swap", "he", "she"): 4,
        ("swap", "her", "him"): 4,
        ("swap", "her", "his"): 8,
    }


def test_genders_and_orders_are_balanced():
    schemas = read_schemas()
    for schema in schemas:
        assert is_he(schema, 0) != is_he(schema, 1)
    assert sum(is_he(schema, 0) for schema in schemas) == len(schemas) / 2
    for kind in ("turn", "swap"):
        firsts = [is_he(pair[0], 0) for name, pair in shipped_pairs().items() if kind in name]
        assert sum(firsts) == len(firsts) / 2
    meant = [schema for schema in schemas if schema.intended is not None]
    assert sum(schema.intended for schema in meant) == len(meant) / 2
    assert sum(is_he(schema, schema.intended) for schema in meant) == len(meant) / 2


def test_a_word_always_has_the_same_gender():
    genders = defaultdict(set)
    for schema in read_schemas():
        for which in (0, 1):
            genders[schema.referents[which]].add(is_he(schema, which))
    assert all(len(found) == 1 for found in genders.values())


def test_pairs_differ_in_one_thing():
    for name, (one, other) in shipped_pairs().items():
        words, others = (re.findall(r"\[MASK\]|\w+|\S", each.sentence) for each in (one, other))
        if name.startswith("swap"):
            first, second = one.referents
            swapped = [{first: second, second: first}.get(word, word) for word in words]
            assert others == swapped
            assert other.referents == (second, first)
            assert one.intended is other.intended is None
        else:
            assert other.referents == one.referents
            assert other.fillers == one.fillers
            assert (one.intended, other.intended) == (0, 1)
            # One stretch of words: what is left of the longest common beginning and end.
            start = next(k for k in range(len(words)) if words[k] != others[k])
            end = next(k for k in range(len(words)) if words[-1 - k] != others[-1 - k])
            changed = [words[start : len(words) - end], others[start : len(others) - end]]
            assert all(len(part) <= 6 for part in changed)
            assert MASK not in changed[0] + changed[1]


def test_no_sentence_comes_twice_and_none_is_the_papers():
    sentences = [schema.sentence for path in (BUNDLED, PAPER) for schema in read_schemas(path)]
    assert len(set(sentences)) == len(sentences) == 102


def test_the_papers_sentences():
    author, love = read_schemas(PAPER)
    assert (author.sentence, author.referents, author.fillers) == (
        "The author talked to Sara about [MASK] book.",
        ("author", "Sara"),
        ("his", "her"),
    )
    assert (love.sentence, love.referents, love.fillers) == (
        "Mary convinced John of [MASK] love.",
        ("Mary", "John"),
        ("her", "his"),
    )


def test_a_users_file(tmp_path):
    path = tmp_path / "own.tsv"
    other = "a\tPaul met Ann near [MASK] car.\tPaul\this\tAnn\ther\tAnn"
    path.write_bytes(f"\ufeff# a note\r\n\r\n{HEAD}\tintended\r\n{LINE}\t-\r\n{other}\r\n".encode())
    one, two = read_schemas(path)
    assert (one.intended, two.intended) == (None, 1)
    assert (one.pair, two.pair) == ("a", "a")
    assert one.fillers == ("her", "his")
    assert one.where == f"{path}, line 4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\tb", "line 3: expected 6 columns with tabs between them, got 2"),
        (LINE.replace("[MASK]", "his"), r"line 3: .* must hold \[MASK\] once, got it 0 times"),
        (LINE.replace("car", "[MASK]"), r"line 3: .* must hold \[MASK\] once, got it 2 times"),
        (LINE.replace("\tAnn\t", "\tAn\t"), "line 3: the referent 'An' must occur once as a whole"),
        (LINE.replace("car", "Ann"), "line 3: the referent 'Ann' must occur once .*, got it 2"),
        (LINE.replace("\tAnn\t", "\t\t"), "line 3: the referent '' must occur once"),
        ("a\tAnn met [MASK] Paul.\tPaul\this\tAnn\ther", "line 3: the first referent must stand b"),
        (LINE.replace("\ther", "\this"), "line 3: the fillers must be two different words"),
        (LINE.replace("\ther", "\ther own"), "line 3: a filler must be one word, got 'her own'"),
        (LINE[1:], "line 3: the pair must have a name"),
        (f"{LINE}\n{LINE}", "line 4: a sentence may stand in a file once"),
    ],
)
def test_unusable_lines_are_named(tmp_path, line, message):
    path = tmp_path / "own.tsv"
    path.write_text(f"# a note\n{HEAD}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_schemas(path)
    assert str(path) in str(caught.value)


def test_a_third_sentence_of_a_pair_and_an_unknown_intention(tmp_path):
    path = tmp_path / "own.tsv"
    lines = [LINE.replace("car", thing) for thing in ("car", "house", "dog")]
    path.write_text("\n".join([HEAD, *lines]), encoding="utf-8")
    with pytest.raises(InputError, match="line 4: a pair must have at most two sentences"):
        read_schemas(path)
    path.write_text(f"{HEAD}\tintended\n{LINE}\tEve\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: intended must be 'Ann', 'Paul' or '-', got 'E"):
        read_schemas(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold a line with the columns' names and at least one sentence"),
        (HEAD.encode(), "at least one sentence, got 1 lines"),
        (f"{HEAD}\tcolour\n{LINE}\tred".encode(), "line 1: the columns must be pair, sentence"),
        (f"pair\n{LINE}".encode(), "line 1: the columns must be pair, sentence"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    path = tmp_path / "own.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_schemas(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_schemas(tmp_path / "none.tsv")


def test_a_sentence_from_the_command_line():
    found = parse_schema("Ann's dog met Paul near [MASK] car. | Ann = her | Paul=his")
    assert found == Schema("Ann's dog met Paul near [MASK] car.", ("Ann", "Paul"), ("her", "his"))
    assert found.span(0) == (0, 3)
    for text in ("Ann met [MASK].", "Ann [MASK] Paul | Ann=her", "Ann [MASK] Paul | Ann | Paul"):
        with pytest.raises(InputError, match="a sentence must be given as"):
            parse_schema(text)
