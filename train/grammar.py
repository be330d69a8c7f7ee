"""Generate an agreement corpus from a built-in grammar: English-like prefixes with a gold subject.

Each example is a sentence up to, but excluding, its main verb:

    [opening ,] subject [modifiers] [adverb]

The opening is a fronted adverbial (``in the towns ,``). The modifiers are chains of prepositional
phrases, subject and object relative clauses, coordinated nouns and parentheses, which together
hold exactly the wanted number of nouns. An *attractor* is a common noun between subject and verb
whose number differs from the subject's; proper names do not count, as in Linzen et al. (2016).

What keeps the gold subject unambiguous: it is never coordinated (other nouns are, after ``both``
or as subjects of a relative clause), determiners and adjectives carry no number, and a relative
clause on the subject itself has a past-tense verb. Between subject and verb, nouns of the subject's
number and attractors have the same distribution. Hence the subject noun alone decides the answer:
whatever the other words are, both labels are equally likely.

References
----------
Linzen, Dupoux and Goldberg (2016), "Assessing the ability of LSTMs to learn syntax-sensitive
dependencies", TACL 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.formats import PLURAL, Example


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (item.split("/") for item in text.split())]


def _nouns(regular: str, irregular: str) -> tuple[tuple[str, str], ...]:
    return (*((word, word + "s") for word in regular.split()), *_pairs(irregular))


def _verbs(forms: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((plural + "s", plural, past) for plural, past in _pairs(forms))


PEOPLE = _nouns(
    "actor artist author baker banker boy brother captain clerk cousin dancer doctor driver "
    "farmer friend gardener girl guard hunter king lawyer manager nurse officer painter pilot "
    "player poet queen sailor scholar singer sister soldier student teacher tourist uncle "
    "visitor waiter writer",
    "child/children coach/coaches lady/ladies man/men wife/wives woman/women secretary/secretaries",
)
THINGS = _nouns(
    "apple basket bell book bottle bridge cabinet car castle chair cup door farm field "
    "flower forest garden hat horse house island key lake lamp letter machine mountain novel "
    "picture plate river road room ship shop song stone table tower town tree village wall "
    "window",
    "box/boxes church/churches city/cities knife/knives library/libraries mouse/mice story/stories",
)
# Present and past of what a person does to someone or something.
TRANSITIVE_VERBS = _verbs(
    "admire/admired avoid/avoided choose/chose describe/described draw/drew enjoy/enjoyed "
    "find/found follow/followed forget/forgot hear/heard know/knew like/liked mention/mentioned "
    "need/needed notice/noticed praise/praised remember/remembered see/saw sell/sold want/wanted"
)
# What a thing does.
THING_VERBS = _verbs(
    "attract/attracted block/blocked cover/covered hide/hid please/pleased resemble/resembled "
    "surprise/surprised surround/surrounded"
)
# What a person does alone.
CLAUSE_VERBS = _verbs(
    "arrive/arrived dream/dreamt laugh/laughed sing/sang sleep/slept smile/smiled swim/swam "
    "wait/waited"
)
DETERMINERS = _words("the the the the my your our his her their")
ADJECTIVES = _words(
    "angry beautiful big black blue bright busy calm clever cold dark dusty famous fast foreign "
    "friendly gentle golden green happy heavy honest large lonely loud narrow new noble old pale "
    "poor proud quiet red rich small strange tall tired white wild young"
)
PREPOSITIONS = _words(
    "above across behind below beside between beyond by from in near of on opposite to under with"
)
COMPARISONS = ("unlike", "besides")
ADVERBS = _words("always apparently certainly never now often probably rarely still usually")
TIMES = _words("yesterday today sometimes later nowadays afterwards")
NAMES = _words("alice anna bob charles clara david emma frank george henry john mary")


def vocabulary() -> list[str]:
    """Return every word of the grammar once, sorted."""
    texts = (DETERMINERS, ADJECTIVES, PREPOSITIONS, COMPARISONS, ADVERBS, TIMES, NAMES)
    forms = (*PEOPLE, *THINGS, *TRANSITIVE_VERBS, *THING_VERBS, *CLAUSE_VERBS, *texts)
    others = _words("according to while both and who that , 's")
    return sorted({word for group in (*forms, others) for word in group})


T = TypeVar("T")
_WORD = 2**64


class Random:
    """Random choices from the raw words of PCG64 alone, which NumPy fixes for good."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """Return an integer of ``0 ... n - 1``; its bias is at most n / 2⁶⁴."""
        if not self._words:
            self._words = self._bits.random_raw(4096).tolist()
        return (self._words.pop() * n) >> 64

    def chance(self, share: float) -> bool:
        """Return True in ``share`` of all cases."""
        return self.below(_WORD) < share * _WORD

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``, each equally likely."""
        return options[self.below(len(options))]

    def weighted(self, shares: Sequence[float]) -> int:
        """Return index ``i`` with probability ``shares[i]``."""
        point = self.below(_WORD) / _WORD
        for index, share in enumerate(shares):
            point -= share
            if point < 0:
                return index
        return len(shares) - 1

    def shuffle(self, items: list[int]) -> None:
        """Bring ``items`` into a random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


GRAMMAR_VERSION = "1.0.0"
"""Raised whenever the same seed would give other sentences, so that no cache is stale."""

MAX_TOKENS = 30
NATURAL_WEIGHTS = (0.60, 0.20, 0.10, 0.06, 0.03, 0.01)
"""Shares of 0 ... 5 attractors, near those of natural text."""

_MAX_NOUNS = 6


def generate(
    seed: int | Sequence[int],
    size: int | None,
    n_attractors: int | None = None,
    *,
    weights: Sequence[float] = NATURAL_WEIGHTS,
) -> Iterator[Example]:
    """Yield `size` examples of the grammar, or without end; the same for a seed on any machine.

    Each has exactly `n_attractors`, 0 ... 5, or a number drawn by `weights`, the shares of 0, 1,
    2, ... attractors and of nouns of the subject's own number, before those prefixes are left out
    that are longer than 30 tokens. Short prefixes may come more than once. Raises `InputError` for
    other numbers of attractors and a negative seed or size.
    """
    if n_attractors is not None and n_attractors not in range(len(NATURAL_WEIGHTS)):
        raise InputError(f"the grammar makes 0 to 5 attractors, but {n_attractors} were asked for.")
    if size is not None and size < 0:
        raise InputError(f"the size of a synthetic corpus cannot be negative, but is {size}.")
    if min([seed] if isinstance(seed, int) else seed) < 0:
        raise InputError(f"the seed of a synthetic corpus cannot be negative, but is {seed}.")
    return _stream(Random(seed), size, n_attractors, weights)


class _Prefix:
    """A prefix being built: the words so far, and what the next modifier may attach to."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.words: list[str] = []
        self.on_noun = False  # the last word is a noun that a relative clause can follow
        self.person = False  # ... and denotes a person
        self.number: int | None = None  # ... and its verb may show this number

    def noun_phrase(self, number: int, *, person: bool | None = None, shows: bool = True) -> None:
        rng = self.rng
        self.person = rng.chance(0.5) if person is None else person
        if rng.chance(0.06):
            self.words += [rng.pick(NAMES), "'s"]
        else:
            self.words.append(rng.pick(DETERMINERS))
        if rng.chance(0.2):
            self.words.append(rng.pick(ADJECTIVES))
        self.words.append(rng.pick(PEOPLE if self.person else THINGS)[number])
        self.on_noun, self.number = True, number if shows else None

    def opening(self) -> None:
        rng = self.rng
        kind = rng.below(4)
        if kind == 0:
            self.words.append(rng.pick(TIMES))
        elif kind == 1:
            self.words += ["according", "to", rng.pick(NAMES)]
        elif kind == 2:
            self.words.append(rng.pick(PREPOSITIONS))
            self.noun_phrase(rng.below(2))
        else:
            number = rng.below(2)
            self.words.append("while")
            self.noun_phrase(number, person=True)
            self.words.append(rng.pick(CLAUSE_VERBS)[number])
        self.words.append(",")

    def modifier(self, numbers: list[int]) -> None:
        """Append one modifier, removing the numbers of its nouns from the end of ``numbers``."""
        # Only a prepositional phrase can follow a clause's verb or a parenthesis.
        shares = (0.44, 0.13, 0.15, 0.22, 0.06) if self.on_noun else (0.75, 0.25)
        kind = self.rng.weighted(shares)
        if kind in (0, 1):
            self.words.append(self.rng.pick(PREPOSITIONS))
            self.objects(numbers, 2 if kind == 1 else 1)
        elif kind == 2:
            self.subject_relative(numbers)
        elif kind == 3:
            self.object_relative(numbers)
        else:
            self.words += [",", self.rng.pick(COMPARISONS)]
            self.objects(numbers, 1)
            self.words.append(",")
            self.on_noun = False

    def objects(self, numbers: list[int], count: int) -> None:
        """Append ``count`` coordinated noun phrases, or as many as there are numbers left."""
        count = min(count, len(numbers))
        for place in range(count):
            if count > 1:
                # Without "both" the second noun could be read as a second subject.
                self.words.append("and" if place else "both")
            self.noun_phrase(numbers.pop(), shows=count == 1)

    def subject_relative(self, numbers: list[int]) -> None:
        rng = self.rng
        verb = rng.pick(TRANSITIVE_VERBS if self.person else THING_VERBS)
        past = self.number is None or rng.chance(0.5)
        self.words.append("who" if self.person and rng.chance(0.6) else "that")
        self.words.append(verb[2] if past else verb[self.number or 0])
        self.objects(numbers, 2 if rng.chance(0.2) else 1)

    def object_relative(self, numbers: list[int]) -> None:
        rng = self.rng
        if rng.chance(0.75):
            self.words.append("that")
        kind = rng.weighted((0.15, 0.2, 0.25, 0.4)) if len(numbers) > 1 else 3 * rng.below(2)
        if kind == 0:
            number = 0
            self.words.append(rng.pick(NAMES))
        else:
            number = numbers.pop()
            self.noun_phrase(number, person=True)
            if kind == 1:
                number = PLURAL
                self.words.append("and")
                self.noun_phrase(numbers.pop(), person=True)
            elif kind == 2:
                self.words.append(rng.pick(PREPOSITIONS))
                self.noun_phrase(numbers.pop())
        tense = 2 if rng.chance(0.4) else number
        self.words.append(rng.pick(TRANSITIVE_VERBS)[tense])
        self.on_noun = False


def _stream(
    rng: Random, size: int | None, n_attractors: int | None, weights: Sequence[float]
) -> Iterator[Example]:
    for _ in count() if size is None else range(size):
        example = None
        while example is None:
            # Both numbers are drawn again if the prefix is too long, so that the pair (attractors,
            # other nouns) stays as likely as its mirror image.
            k = rng.weighted(weights) if n_attractors is None else n_attractors
            others = rng.weighted(weights)
            if k + others <= _MAX_NOUNS:
                example = _example(rng, k, others)
        yield example


def _example(rng: Random, n_attractors: int, n_others: int) -> Example | None:
    """Draw one example, or None if it came out too long."""
    label = rng.below(2)
    numbers = [1 - label] * n_attractors + [label] * n_others
    rng.shuffle(numbers)
    prefix = _Prefix(rng)
    if rng.chance(0.25):
        prefix.opening()
    prefix.noun_phrase(label, shows=False)
    subject = len(prefix.words) - 1
    if not numbers and rng.chance(0.25):
        # A clause without a common noun: "the keys that mary found", "the boy who waited".
        if prefix.person and rng.chance(0.5):
            prefix.words += ["who", rng.pick(CLAUSE_VERBS)[2]]
        else:
            verb = rng.pick(TRANSITIVE_VERBS)
            prefix.words += ["that", rng.pick(NAMES), verb[2 * rng.below(2)]]
    while numbers:
        prefix.modifier(numbers)
    if rng.chance(0.15):
        prefix.words.append(rng.pick(ADVERBS))
    if len(prefix.words) > MAX_TOKENS:
        return None
    return Example(" ".join(prefix.words), label, n_attractors, subject)


# A change here needs a higher GRAMMAR_VERSION, else caches keep the old corpus.
TRAIN_SIZE = 40_000
HELD_OUT_SIZES = {"val": 1_000, "test": 2_000} | {f"test_{k}": 300 for k in range(1, 6)}
TRAIN_WEIGHTS = (0.40, 0.20, 0.14, 0.11, 0.08, 0.07)
"""Shares of 0 ... 5 attractors in ``train``: natural ones hold too few examples with many."""


def synthetic_splits(seed: int = 0, size: int = TRAIN_SIZE) -> dict[str, list[Example]]:
    """Return the corpus by split: ``train``, ``val``, ``test`` and ``test_1`` ... ``test_5``.

    `size` is the number of training rows; held-out splits do not depend on it. None of their
    prefixes occurs in another split or twice in its own; within ``train`` short ones are repeated.
    """
    if size < 1:
        raise InputError(f"a synthetic corpus needs at least one training row, not {size}.")
    held_out: dict[str, list[Example]] = {}
    seen: set[str] = set()

    def new(examples: Iterator[Example], once: bool) -> Iterator[Example]:
        for example in examples:
            if example.prefix not in seen:
                if once:
                    seen.add(example.prefix)
                yield example

    for number, (name, wanted) in enumerate(HELD_OUT_SIZES.items(), start=1):
        k = int(name[-1]) if name.startswith("test_") else None
        held_out[name] = list(islice(new(generate((seed, number), None, k), True), wanted))
    train = generate((seed, 0), None, weights=TRAIN_WEIGHTS)
    return {"train": list(islice(new(train, False), size)), **held_out}
