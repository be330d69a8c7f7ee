"""Test the synthetic grammar: labels recomputed from the text by independent parsers."""

import hashlib
from collections import Counter, defaultdict

import pytest
from session import refused

from jaxflow.train import grammar
from jaxflow.train.formats import PLURAL, SINGULAR
from jaxflow.train.grammar import (
    GRAMMAR_VERSION,
    HELD_OUT_SIZES,
    NATURAL_WEIGHTS,
    TRAIN_WEIGHTS,
    generate,
    synthetic_splits,
)

GOLDEN = [
    ("your rich gardener", 0, 0, 2),
    ("the lady", 0, 0, 1),
    ("the river", 0, 0, 1),
    ("your honest lawyer", 0, 0, 2),
    ("my letters of the chairs", 1, 0, 1),
    ("your hat that surrounded the teacher", 0, 0, 1),
]
GOLDEN_DIGEST = ("1.0.0", "ea899e95cc252fc1")
IRREGULAR = {"children", "men", "women", "mice"}
NOUNS = {form for pair in grammar.PEOPLE + grammar.THINGS for form in pair}
VERBS = grammar.TRANSITIVE_VERBS + grammar.THING_VERBS + grammar.CLAUSE_VERBS
PRESENT = {verb[number]: number for verb in VERBS for number in (SINGULAR, PLURAL)}


@pytest.fixture(scope="module")
def splits():
    return synthetic_splits(seed=0, size=20_000)


@pytest.fixture(scope="module")
def examples(splits):
    return [example for rows in splits.values() for example in rows]


def spelled_number(noun):
    """Number of a common noun from its spelling alone."""
    return PLURAL if noun in IRREGULAR or noun.endswith("s") else SINGULAR


def first_noun_of_the_subject(words):
    """Index of the first common noun, behind the comma where the prefix opens with an adverbial."""
    openers = {*grammar.TIMES, *grammar.PREPOSITIONS, "according", "while"}
    start = words.index(",") + 1 if words[0] in openers else 0
    return next(i for i in range(start, len(words)) if words[i] in NOUNS)


def skip_noun_phrase(words, noun):
    """Index of the word before the noun phrase whose noun stands at ``noun``."""
    i = noun - 1
    if words[i] in grammar.ADJECTIVES:
        i -= 1
    return i - 2 if words[i] == "'s" else i - 1


def number_of_clause_subject(words, verb):
    """Number that the inner verb at index ``verb`` should show, and the noun it comes from."""
    i = verb - 1
    if words[i] in ("who", "that"):
        return spelled_number(words[i - 1]), i - 1
    if words[i] in grammar.NAMES:
        return SINGULAR, None
    noun, i = i, skip_noun_phrase(words, i)
    if words[i] == "and":
        return PLURAL, None
    if words[i] in grammar.PREPOSITIONS:
        noun = i - 1
    return spelled_number(words[noun]), noun


def test_the_corpus_is_golden_under_its_version():
    # Those that fit into a line of this file.
    short = [example for example in generate(0, 8) if len(example.prefix) < 80]
    assert [tuple(example) for example in short] == GOLDEN
    digest = hashlib.sha256()
    for name, rows in synthetic_splits(seed=7, size=1_000).items():
        digest.update(f"{name}\n".encode())
        digest.update("".join(f"{row!r}\n" for row in map(tuple, rows)).encode())
    assert (GRAMMAR_VERSION, digest.hexdigest()[:16]) == GOLDEN_DIGEST


def test_split_sizes_and_overlap(splits):
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 20_000} | HELD_OUT_SIZES
    prefixes = {name: {row.prefix for row in rows} for name, rows in splits.items()}
    held_out = Counter(p for name in HELD_OUT_SIZES for p in prefixes[name])
    assert max(held_out.values()) == 1
    assert all(len(prefixes[name]) == size for name, size in HELD_OUT_SIZES.items())
    assert not prefixes["train"] & set(held_out)


def test_gold_subject_label_and_attractors_are_those_of_the_text(examples):
    for example in examples:
        words = example.prefix.split(" ")
        assert example.subject_index == first_noun_of_the_subject(words), example
        label = spelled_number(words[example.subject_index])
        assert example.label == label, example
        between = [word for word in words[example.subject_index + 1 :] if word in NOUNS]
        assert example.n_attractors == sum(spelled_number(word) != label for word in between)
        assert 2 <= len(words) <= 30


def test_inner_verbs_agree_with_their_own_subject_and_never_show_the_gold_one(examples):
    seen = Counter()
    for example in examples:
        words = example.prefix.split(" ")
        for i, word in enumerate(words):
            if word in PRESENT:
                number, noun = number_of_clause_subject(words, i)
                assert PRESENT[word] == number, (word, example.prefix)
                assert noun != example.subject_index, example.prefix
                seen[number, noun is None] += 1
    assert min(seen.values()) > 100
    assert len(seen) == 4


def numbers_of_the_other_nouns(words, subject):
    numbers = [spelled_number(word) for word in words[subject + 1 :] if word in NOUNS]
    return numbers.count(SINGULAR), numbers.count(PLURAL)


SHORTCUTS = {
    "opening": lambda words, _: tuple(words[:2]) if words[0] in grammar.TIMES else words[0],
    "length and first word": lambda words, _: (len(words), words[0]),
    "numbers of the other nouns": numbers_of_the_other_nouns,
    "first other noun": lambda words, subject: next(
        (word for i, word in enumerate(words) if word in NOUNS and i != subject), None
    ),
}


@pytest.mark.parametrize("shortcut", SHORTCUTS.values(), ids=SHORTCUTS)
def test_nothing_but_the_subject_gives_the_label_away(splits, shortcut):
    def feature(example):
        return shortcut(example.prefix.split(" "), example.subject_index)

    votes = defaultdict(Counter)
    for example in splits["train"]:
        votes[feature(example)][example.label] += 1
    test = splits["val"] + splits["test"]
    right = [votes[feature(e)][e.label] > votes[feature(e)][1 - e.label] for e in test]
    # 3,000 coin tosses: the standard deviation is 0.009.
    assert sum(right) / len(right) < 0.53


def test_shares_of_attractors_and_labels(splits):
    # Long prefixes are left out, and repeated or held-out ones, which are short.
    for name, weights in (("train", TRAIN_WEIGHTS), ("test", NATURAL_WEIGHTS)):
        counts = Counter(example.n_attractors for example in splits[name])
        for k, weight in enumerate(weights):
            assert counts[k] / len(splits[name]) == pytest.approx(weight, abs=0.03)
    for k in range(6):
        labels = [e.label for e in splits["train"] if e.n_attractors == k]
        assert sum(labels) / len(labels) == pytest.approx(0.5, abs=0.03)
    for k in range(1, 6):
        assert {example.n_attractors for example in splits[f"test_{k}"]} == {k}


def test_unusable_arguments():
    for arguments, message in {
        (0, 5, 6): "0 to 5 attractors",
        (0, -1): "cannot be negative, but is -1",
        (-3, 1): "seed .* cannot be negative, but is -3",
    }.items():
        with refused(message):
            generate(*arguments)
    with refused("at least one training row, not 0"):
        synthetic_splits(size=0)
