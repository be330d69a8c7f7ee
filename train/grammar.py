"""A built-in agreement grammar: English-like prefixes with a gold subject, no file needed.

Each example is a sentence up to, but excluding, its main verb:

    [opening ,] subject [modifiers] [adverb]

The opening is a fronted adverbial (``in the towns ,``). The modifiers are chains of prepositional
phrases, subject and object relative clauses, coordinated nouns and parentheses, which together
hold exactly the wanted number of nouns. An *attractor* is a common noun between subject and verb
whose number differs from the subject's; proper names do not count, as in Linzen et al. (2016).

What keeps the gold subject unambiguous: it is never coordinated (other nouns are, behind ``both``
or as subjects of a relative clause), determiners and adjectives carry no number, and a relative
clause on the subject itself has a past-tense verb. As many nouns of the subject's own number stand
between it and the verb as there are attractors, in distribution. Hence the subject noun alone
decides the answer: whatever the other words are, both labels are equally likely.

References
----------
Linzen, Dupoux and Goldberg (2016), "Assessing the ability of LSTMs to learn syntax-sensitive
dependencies", TACL 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from jaxflow.errors import InputError
from jaxflow.train import lexicon
from jaxflow.train.dice import Dice
from jaxflow.train.formats import PLURAL, Example

__all__ = [
    "GRAMMAR_VERSION",
    "MAX_TOKENS",
    "NATURAL_WEIGHTS",
    "generate",
]

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
    """Yield examples of the grammar, the same ones for the same seed on any machine.

    Parameters
    ----------
    seed : int or sequence of int
        Non-negative entropy of the stream.
    size : int, optional
        How many examples; None for a stream without end. A longer one begins with a shorter.
    n_attractors : int, optional
        Give every example exactly this many attractors, 0 ... 5. By default the number is drawn.
    weights : sequence of float
        Shares of 0, 1, 2, ... attractors where ``n_attractors`` is None, and of nouns of the
        subject's own number, before those prefixes are left out that would be too long.

    Yields
    ------
    Example
        At most 30 tokens; label, attractor count and subject index are all known. Short prefixes
        may come more than once.

    Raises
    ------
    InputError
        If ``n_attractors`` is not 0 ... 5, or seed or size is negative.
    """
    if n_attractors is not None and n_attractors not in range(len(NATURAL_WEIGHTS)):
        raise InputError(f"the grammar makes 0 to 5 attractors, but {n_attractors} were asked for.")
    if size is not None and size < 0:
        raise InputError(f"the size of a synthetic corpus cannot be negative, but is {size}.")
    if min([seed] if isinstance(seed, int) else seed) < 0:
        raise InputError(f"the seed of a synthetic corpus cannot be negative, but is {seed}.")
    return _stream(Dice(seed), size, n_attractors, weights)


class _Prefix:
    """One prefix in the making: the words so far, and what the next modifier may hang on."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.words: list[str] = []
        self.on_noun = False  # the last word is a noun that a relative clause can follow
        self.person = False  # ... and denotes a person
        self.number: int | None = None  # ... and its verb may show this number

    def noun_phrase(self, number: int, *, person: bool | None = None, shows: bool = True) -> None:
        dice = self.dice
        self.person = dice.chance(0.5) if person is None else person
        if dice.chance(0.06):
            self.words += [dice.pick(lexicon.NAMES), "'s"]
        else:
            self.words.append(dice.pick(lexicon.DETERMINERS))
        if dice.chance(0.2):
            self.words.append(dice.pick(lexicon.ADJECTIVES))
        self.words.append(dice.pick(lexicon.PEOPLE if self.person else lexicon.THINGS)[number])
        self.on_noun, self.number = True, number if shows else None

    def opening(self) -> None:
        dice = self.dice
        kind = dice.below(4)
        if kind == 0:
            self.words.append(dice.pick(lexicon.TIMES))
        elif kind == 1:
            self.words += ["according", "to", dice.pick(lexicon.NAMES)]
        elif kind == 2:
            self.words.append(dice.pick(lexicon.PREPOSITIONS))
            self.noun_phrase(dice.below(2))
        else:
            number = dice.below(2)
            self.words.append("while")
            self.noun_phrase(number, person=True)
            self.words.append(dice.pick(lexicon.CLAUSE_VERBS)[number])
        self.words.append(",")

    def modifier(self, numbers: list[int]) -> None:
        """Append one modifier, taking the numbers of its nouns off the end of ``numbers``."""
        # Only a prepositional phrase can follow a clause's verb or a parenthesis.
        shares = (0.44, 0.13, 0.15, 0.22, 0.06) if self.on_noun else (0.75, 0.25)
        kind = self.dice.weighted(shares)
        if kind in (0, 1):
            self.words.append(self.dice.pick(lexicon.PREPOSITIONS))
            self.objects(numbers, 2 if kind == 1 else 1)
        elif kind == 2:
            self.subject_relative(numbers)
        elif kind == 3:
            self.object_relative(numbers)
        else:
            self.words += [",", self.dice.pick(lexicon.COMPARISONS)]
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
        dice = self.dice
        verb = dice.pick(lexicon.TRANSITIVE_VERBS if self.person else lexicon.THING_VERBS)
        past = self.number is None or dice.chance(0.5)
        self.words.append("who" if self.person and dice.chance(0.6) else "that")
        self.words.append(verb[2] if past else verb[self.number or 0])
        self.objects(numbers, 2 if dice.chance(0.2) else 1)

    def object_relative(self, numbers: list[int]) -> None:
        dice = self.dice
        if dice.chance(0.75):
            self.words.append("that")
        kind = dice.weighted((0.15, 0.2, 0.25, 0.4)) if len(numbers) > 1 else 3 * dice.below(2)
        if kind == 0:
            number = 0
            self.words.append(dice.pick(lexicon.NAMES))
        else:
            number = numbers.pop()
            self.noun_phrase(number, person=True)
            if kind == 1:
                number = PLURAL
                self.words.append("and")
                self.noun_phrase(numbers.pop(), person=True)
            elif kind == 2:
                self.words.append(dice.pick(lexicon.PREPOSITIONS))
                self.noun_phrase(numbers.pop())
        tense = 2 if dice.chance(0.4) else number
        self.words.append(dice.pick(lexicon.TRANSITIVE_VERBS)[tense])
        self.on_noun = False


def _stream(
    dice: Dice, size: int | None, n_attractors: int | None, weights: Sequence[float]
) -> Iterator[Example]:
    for _ in count() if size is None else range(size):
        example = None
        while example is None:
            # Both numbers are drawn anew if the prefix comes out too long: only so does the pair
            # (attractors, other nouns) stay as likely as its mirror image.
            k = dice.weighted(weights) if n_attractors is None else n_attractors
            others = dice.weighted(weights)
            if k + others <= _MAX_NOUNS:
                example = _example(dice, k, others)
        yield example


def _example(dice: Dice, n_attractors: int, n_others: int) -> Example | None:
    """Draw one example, or None if it came out too long."""
    label = dice.below(2)
    numbers = [1 - label] * n_attractors + [label] * n_others
    dice.shuffle(numbers)
    prefix = _Prefix(dice)
    if dice.chance(0.25):
        prefix.opening()
    prefix.noun_phrase(label, shows=False)
    subject = len(prefix.words) - 1
    if not numbers and dice.chance(0.25):
        # A clause without a common noun: "the keys that mary found", "the boy who waited".
        if prefix.person and dice.chance(0.5):
            prefix.words += ["who", dice.pick(lexicon.CLAUSE_VERBS)[2]]
        else:
            verb = dice.pick(lexicon.TRANSITIVE_VERBS)
            prefix.words += ["that", dice.pick(lexicon.NAMES), verb[2 * dice.below(2)]]
    while numbers:
        prefix.modifier(numbers)
    if dice.chance(0.15):
        prefix.words.append(dice.pick(lexicon.ADVERBS))
    if len(prefix.words) > MAX_TOKENS:
        return None
    return Example(" ".join(prefix.words), label, n_attractors, subject)
