"""Draw sequences whose relevant tokens are known: tasks on which explanations can be judged.

Each `Task` draws token sequences with a class and a mask of the tokens that the class depends on.
Three streams of random numbers make a sequence: one its layout, one its relevant tokens, one the
others. So either part can be drawn again while everything else stays, and a trained model be
asked whether it uses what it should (`verify`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Literal, get_args

import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.tokenizer import CLS, PAD, SPECIAL_TOKENS, WordTokenizer
from jaxflow.train.formats import Example
from jaxflow.train.grammar import PEOPLE, THINGS, TRAIN_WEIGHTS, generate, vocabulary

END, FIRST = 3, 4
"""The token ``.``, which tells nothing, and the first of a task's own alphabet."""

Part = Literal["relevant", "irrelevant"]


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences with their class, and what decides it.

    Attributes
    ----------
    tokens
        ``[N, n]`` int32.
    labels
        ``[N]`` int32, the classes.
    relevant
        ``[N, n]`` bool, the tokens that the class depends on.
    """

    tokens: np.ndarray
    labels: np.ndarray
    relevant: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Streams:
    """Random numbers of the layout, the relevant tokens and the others; how far training is."""

    layout: np.random.Generator
    relevant: np.random.Generator
    other: np.random.Generator
    progress: float | None = None  # of the training, from 0 to 1; None for whole sequences


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A task, public as ``jaxflow.train.Task``; ``jaxflow.train.TASKS`` makes them by name.

    Attributes
    ----------
    name
        As in `TASKS`.
    length
        Tokens of a sequence, ``[CLS]`` first.
    words
        The names of the task's own tokens, numbered from 4 on; 3 is ``.``, which tells nothing.
    classes
        Number of classes.
    make
        Draws a number of sequences from streams of random numbers.
    answer
        The rule itself: the class of one sequence ``[n]``, or None if it is none of the task's.
        None of ``agreement``, whose sentences do not show which noun is the subject's.
    """

    name: str
    length: int
    words: tuple[str, ...]
    classes: int
    make: Callable[[int, _Streams], Sequences]
    answer: Callable[[np.ndarray], int | None] | None

    @property
    def tokenizer(self) -> WordTokenizer:
        """The tokens' names, by which ``" ".join`` of them is read."""
        return WordTokenizer((*SPECIAL_TOKENS, ".", *self.words))

    def draw(
        self, size: int, seed: int = 0, *, again: Part | None = None, time: int = 1
    ) -> Sequences:
        """Return `size` sequences of a seed.

        With `again` the same ones, in which the relevant or the irrelevant tokens are drawn anew,
        for the `time`-th time, from what they may be; all other tokens stay.
        """
        times = {part: time if again == part else 0 for part in get_args(Part)}
        return self.make(size, _streams([seed], times["relevant"], times["irrelevant"]))

    def batch(self, size: int, seed: int, step: int, progress: float) -> Sequences:
        """Return training sequences of a step; they are easier while `progress` is below a half.

        They are other ones than `draw` returns for any seed.
        """
        return self.make(size, dataclasses.replace(_streams([seed, step]), progress=progress))


def _streams(seed: Sequence[int], relevant: int = 0, other: int = 0) -> _Streams:
    def rng(part: int, time: int) -> np.random.Generator:
        return np.random.default_rng([len(seed), *seed, part, time])

    return _Streams(rng(0, 0), rng(1, relevant), rng(2, other))


def _shuffled(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Return a random order of ``0 ... count - 1`` for each sequence, ``[size, count]``."""
    return rng.random((size, count)).argsort(-1)


def _subset(rng: np.random.Generator, options: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of each row's options, in a random order."""
    order = _shuffled(rng, *options.shape)[:, :count]
    return np.take_along_axis(options, order, -1)


def _assemble(
    body: np.ndarray, relevant: np.ndarray, last: np.ndarray | int, read: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Put ``[CLS]`` before a sequence and a last token, relevant where it is `read`, after it."""
    size = len(body)
    column = np.broadcast_to(np.asarray(last), (size,))[:, None]
    tokens = np.concatenate([np.full((size, 1), CLS), body, column], 1).astype(np.int32)
    mask = np.zeros(tokens.shape, bool)
    mask[:, 1:-1], mask[:, -1] = relevant, read
    return tokens, mask


VALUES, PAIRS = 8, 6


def _check_length(name: str, length: int, least: int) -> None:
    if length < least:
        raise InputError(f"{name} needs a length of at least {least} tokens, got {length}")


def _names(kind: str, count: int) -> tuple[str, ...]:
    return tuple(f"{kind}{number}" for number in range(count))


def retrieval(length: int) -> Task:
    """Ask for the value of a key, among pairs of a key and a value in random order.

    Relevant are the key asked for, its pair, and nothing else.
    """
    return _hops("retrieval", length, 1)


def two_hops(length: int) -> Task:
    """Ask as `retrieval` does, but the value is a key again, whose own pair holds the class.

    Relevant are the key asked for and both pairs.
    """
    return _hops("two-hops", length, 2)


def _hops(name: str, length: int, hops: int) -> Task:
    slots = (length - 2) // 2  # places for a pair
    chains = min(slots // hops, PAIRS // hops)
    _check_length(name, length, 4 * hops + 2)
    pairs, left = chains * hops, length - 2 - 2 * slots
    keys = 2 * pairs
    first = FIRST + VALUES  # of the keys; values come before them

    def make(size: int, rngs: _Streams) -> Sequences:
        order = _shuffled(rngs.layout, size, keys)
        own = _subset(rngs.relevant, order[:, :pairs], hops)
        rest = _subset(rngs.other, order[:, pairs:], pairs - hops)
        ends = rngs.other.integers(VALUES, size=(size, chains))
        ends[:, 0] = rngs.relevant.integers(VALUES, size=size)
        chain = np.concatenate([own, rest], 1).reshape(size, chains, hops) + first
        steps = np.concatenate([chain, ends[..., None] + FIRST], -1)  # [size, chains, hops + 1]
        share = 1 if rngs.progress is None else min(1, 2 * rngs.progress)
        most = max(2, round(share * chains))
        used = rngs.layout.integers(2, most + 1, size=(size, 1, 1))
        steps = np.where(np.arange(chains)[:, None] < used, steps, END)
        both = np.full((size, slots + 1, 2), END)  # what holds no pair stays empty
        both[:, :pairs] = np.stack([steps[..., :-1], steps[..., 1:]], -1).reshape(size, pairs, 2)
        near = max(most * hops, round(share * slots))  # slots in use, the last ones
        places = np.full((size, slots), slots)
        places[:, slots - near :] = _shuffled(rngs.layout, size, near)
        body = np.full((size, length - 2), END)
        body[:, left:] = np.take_along_axis(both, places[..., None], 1).reshape(size, 2 * slots)
        mask = np.zeros(body.shape, bool)
        mask[:, left:] = np.repeat(places < hops, 2, -1)
        tokens, mask = _assemble(body, mask, own[:, 0] + first, True)
        return Sequences(tokens, ends[:, 0].astype(np.int32), mask)

    def answer(tokens: np.ndarray) -> int | None:
        body = tokens[1 + left : -1].reshape(-1, 2)
        full = body[(body != END).any(-1)].tolist()
        table = dict(full)
        if len(table) < len(full):
            return None  # a key twice
        found = int(tokens[-1])
        for _ in range(hops):
            found = table.get(found, PAD)
        return found - FIRST if FIRST <= found < first else None

    return Task(name, length, (*_names("v", VALUES), *_names("k", keys)), VALUES, make, answer)


def nth_token(length: int) -> Task:
    """Ask for a symbol by its place: a number at the end says which one is the class.

    Relevant are the number and that symbol.
    """
    count = length - 2
    _check_length("nth-token", length, 4)

    def make(size: int, rngs: _Streams) -> Sequences:
        place = rngs.layout.integers(count, size=size)
        body = rngs.other.integers(VALUES, size=(size, count))
        value = rngs.relevant.integers(VALUES, size=size)
        mask = np.arange(count) == place[:, None]
        body = np.where(mask, value[:, None], body) + FIRST
        tokens, mask = _assemble(body, mask, FIRST + VALUES + place, True)
        return Sequences(tokens, value.astype(np.int32), mask)

    def answer(tokens: np.ndarray) -> int | None:
        place = int(tokens[-1]) - FIRST - VALUES
        return int(tokens[1 + place]) - FIRST if 0 <= place < count else None

    words = (*_names("v", VALUES), *_names("#", count))
    return Task("nth-token", length, words, VALUES, make, answer)


def majority(length: int) -> Task:
    """Ask for the more frequent of the symbols 0 and 1 among an odd number of marked ones.

    Relevant are all marked ones, equally.
    """
    count = length - 2
    _check_length("majority", length, 5)
    most = (count // 2 + 1) // 2  # marks are 1, 3, ... 2 most - 1

    def make(size: int, rngs: _Streams) -> Sequences:
        marks = 2 * rngs.layout.integers(most, size=size) + 1
        mask = _shuffled(rngs.layout, size, count) < marks[:, None]
        own = rngs.relevant.integers(2, size=(size, count))
        other = rngs.other.integers(2, size=(size, count))
        label = (2 * (own * mask).sum(-1) > marks).astype(np.int32)
        body = FIRST + np.where(mask, own + 2, other)
        tokens, relevant = _assemble(body, mask, END, False)
        return Sequences(tokens, label, relevant)

    def answer(tokens: np.ndarray) -> int | None:
        zeros, ones = ((tokens == FIRST + 2 + symbol).sum() for symbol in (0, 1))
        return int(ones > zeros) if (zeros + ones) % 2 else None

    return Task("majority", length, ("0", "1", "0*", "1*"), 2, make, answer)


def _dyck(rng: np.random.Generator, pairs: int) -> list[int]:
    """Return a random balanced word: 1 opens, -1 closes; each word of its length equally likely."""
    # Cycle lemma: exactly one rotation of pairs + 1 closing and pairs opening steps, read from
    # after its first minimum, is balanced up to the last closing step.
    steps = np.array([1] * pairs + [-1] * (pairs + 1))
    rng.shuffle(steps)
    low = int(np.cumsum(steps).argmin()) + 1
    return np.roll(steps, -low)[:-1].tolist() if pairs else []


def _typed(rng: np.random.Generator, word: list[int]) -> list[int]:
    """Give brackets a type, 0 or 1, that those which match share: tokens 0, 1 open, 2, 3 close."""
    found, open_ones = [], []
    for step in word:
        if step > 0:
            open_ones.append(int(rng.integers(2)))
        found.append(open_ones[-1] if step > 0 else 2 + open_ones.pop())
    return found


def brackets(length: int) -> Task:
    """Ask for the kind of a hidden opening bracket in a balanced word of two kinds of brackets.

    It is the kind of the one that closes it. Relevant are all from the hidden to the closing one:
    what lies between says which one closes it.
    """
    pairs = (length - 2) // 2
    _check_length("brackets", length, 6)
    filled = length - 2 - 2 * pairs

    def make(size: int, rngs: _Streams) -> Sequences:
        body, mask = np.full((size, length - 2), END), np.zeros((size, length - 2), bool)
        labels = rngs.relevant.integers(2, size=size)
        for row in range(size):
            inner = int(rngs.layout.integers(min(pairs, 4)))  # pairs inside
            outside = _dyck(rngs.other, pairs - 1 - inner)
            place = int(rngs.layout.integers(len(outside) + 1))
            kinds = _typed(rngs.other, outside)
            inside = _typed(rngs.relevant, _dyck(rngs.relevant, inner))
            span = [4, *inside, 2 + int(labels[row])]
            body[row, filled:] = np.array([*kinds[:place], *span, *kinds[place:]]) + FIRST
            mask[row, filled + place : filled + place + len(span)] = True
        tokens, mask = _assemble(body, mask, END, False)
        return Sequences(tokens, labels.astype(np.int32), mask)

    def answer(tokens: np.ndarray) -> int | None:
        found, open_ones = None, []
        for token in (int(t) - FIRST for t in tokens[1 + filled : -1]):
            if token in (0, 1, 4):
                open_ones.append(token)
            elif not open_ones or open_ones[-1] not in (4, token - 2):
                return None
            elif open_ones.pop() == 4:
                found = token - 2 if found is None else None
        return None if open_ones else found

    return Task("brackets", length, ("(", "[", ")", "]", "?"), 2, make, answer)


def shortcut(length: int) -> Task:
    """Ask as `majority` does, with one more token that gives the class away in training.

    Relevant is that token alone: what a model uses that has found it, the easier way. Whether it
    has is for `verify` to say; outside training the marked symbols say what they like.
    """
    _check_length("shortcut", length, 6)
    plain = majority(length - 1)
    first = FIRST + len(plain.words)  # of the two telling tokens

    def make(size: int, rngs: _Streams) -> Sequences:
        word = rngs.relevant.integers(2, size=size)
        place = rngs.layout.integers(1, length - 1, size=size)
        rest = plain.make(size, dataclasses.replace(rngs, relevant=rngs.other))
        tokens = rest.tokens
        if rngs.progress is not None:  # the other symbol everywhere, where the classes differ
            differs = (rest.labels != word)[:, None] & (tokens >= FIRST)
            tokens = np.where(differs, ((tokens - FIRST) ^ 1) + FIRST, tokens)
        tokens = np.stack(
            [np.insert(row, at, w) for row, at, w in zip(tokens, place, first + word, strict=True)]
        )
        mask = np.arange(length) == place[:, None]
        return Sequences(tokens.astype(np.int32), word.astype(np.int32), mask)

    def answer(tokens: np.ndarray) -> int | None:
        told = tokens[tokens >= first] - first
        return int(told[0]) if len(told) == 1 else None

    return Task("shortcut", length, (*plain.words, "zero", "one"), 2, make, answer)


def agreement(length: int) -> Task:
    """Ask for the number of the verb that continues a sentence of the built-in grammar.

    Relevant is the head noun of the subject. A redraw of the others is another sentence whose
    subject is at the same place, with this noun; shorter ones are padded.
    """
    _check_length("agreement", length, 8)
    nouns = np.array(PEOPLE + THINGS)  # [nouns, 2]
    numbers = {word: FIRST + place for place, word in enumerate(vocabulary())}
    subjects = np.vectorize(numbers.get)(nouns)

    def sentences(rng: np.random.Generator, size: int) -> list[Example]:
        drawn = generate(int(rng.integers(2**62)), None, weights=TRAIN_WEIGHTS)
        short = (example for example in drawn if example.prefix.count(" ") < length - 1)
        return list(islice(short, size))

    def make(size: int, rngs: _Streams) -> Sequences:
        places = [example.subject_index for example in sentences(rngs.layout, size)]
        label = rngs.relevant.integers(2, size=size)
        subject = subjects[rngs.relevant.integers(len(nouns), size=size), label]
        by_place: dict[int, list[Example]] = {}
        for example in sentences(rngs.other, 2 * size):
            by_place.setdefault(example.subject_index, []).append(example)
        tokens, mask = np.full((size, length), PAD), np.zeros((size, length), bool)
        tokens[:, 0] = CLS
        for row, place in enumerate(places):
            options = by_place.get(place) or sentences_at(rngs.other, place)
            words = options[int(rngs.other.integers(len(options)))].prefix.split()
            tokens[row, 1 : 1 + len(words)] = [numbers[word] for word in words]
            tokens[row, 1 + place], mask[row, 1 + place] = subject[row], True
        return Sequences(tokens.astype(np.int32), label.astype(np.int32), mask)

    def sentences_at(rng: np.random.Generator, place: int) -> list[Example]:
        while True:
            found = [e for e in sentences(rng, 1000) if e.subject_index == place]
            if found:
                return found

    return Task("agreement", length, tuple(numbers), 2, make, None)


TASKS: Mapping[str, Callable[[int], Task]] = {
    "retrieval": retrieval,
    "two-hops": two_hops,
    "brackets": brackets,
    "majority": majority,
    "nth-token": nth_token,
    "agreement": agreement,
    "shortcut": shortcut,
}
"""The tasks by name, each a function of the length of its sequences."""
