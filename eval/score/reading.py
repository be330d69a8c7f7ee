"""Encode a text or a pair for a model: its tokens, the words they are of, and the readout."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models import Model, SubwordTokenizer, Tokenizer, WordTokenizer
from jaxflow.models.output import readable
from jaxflow.models.subword import ROLES
from jaxflow.models.tokenizer import SPECIAL_TOKENS, UNK, Pieces

#: A bound on the characters of a token, for whole sentences: no real one is close.
LONGEST_TOKEN = 256


class Token(str):
    """A token as it was written: a word, a piece of one (``##ing``), or a special token.

    Attributes
    ----------
    seen
        The vocabulary's form: the same, in lower case, or the token for unknown words.
    known
        Whether the vocabulary has it.
    """

    seen: str
    known: bool

    def __new__(cls, text: str, seen: str | None = None, known: bool = True) -> Token:
        """Return the token; `seen` None is the text itself."""
        token = super().__new__(cls, text)
        token.seen, token.known = text if seen is None else seen, known
        return token

    def __getnewargs__(self) -> tuple[str, str, bool]:  # type: ignore[override]
        return str(self), self.seen, self.known

    @property
    def text(self) -> str:
        """The token as a plain string."""
        return str(self)

    def record(self) -> dict[str, str | bool]:
        """Return the token as results write it."""
        return {"text": self.text, "seen": self.seen, "known": self.known}


#: What a corpus of separated words writes for quotation marks, before a word and after it.
_QUOTES = {'"': ("``", "''"), "\u201c": ("``",) * 2, "\u201d": ("''",) * 2, "\u2019": ("'",) * 2}
_BEFORE, _AFTER = '([{"\u201c', ',.;:!?)]}"\u201d\u2026'
_CLITIC = re.compile(r"(?i)(.+?)(n['\u2019]t|['\u2019](?:s|m|d|re|ve|ll))")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A text as a model reads it: n tokens, shown as m units.

    Attributes
    ----------
    ids
        The n tokens' numbers.
    units
        The m units: the tokens themselves, or the words that they are joined to.
    members
        The unit of each token.
    place
        The token that the model's output is computed from.
    types
        The token type of each token, which tells two texts apart; empty is 0 everywhere.
    """

    ids: tuple[int, ...]
    units: tuple[Token, ...]
    members: tuple[int, ...]
    place: int
    types: tuple[int, ...] = ()

    @property
    def readout(self) -> int:
        """The unit that the model's output is computed from."""
        return self.members[self.place]

    def padded(self, length: int, pad_id: int | None) -> NDArray[np.int32]:
        """Return the tokens' numbers, int32 ``[length]``."""
        return _padded(self.ids, length, pad_id or 0)

    def padded_types(self, length: int) -> NDArray[np.int32]:
        """Return the tokens' types, int32 ``[length]``."""
        return _padded(self.types, length, 0)


def _padded(numbers: Sequence[int], length: int, fill: int) -> NDArray[np.int32]:
    found = np.full(length, fill, np.int32)
    found[: len(numbers)] = numbers
    return found


def piece_text(tokenizer: Tokenizer, number: int) -> str:
    r"""Return an entry of the vocabulary as text; bytes that are no whole character as ``\xc3``."""
    (entry,) = tokenizer.decode([number])
    if not isinstance(tokenizer, SubwordTokenizer) or not _is_byte_level(tokenizer):
        return entry
    # Each byte is written as one character: itself where it is a visible one (GPT-2's table).
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    values = {chr(byte): byte for byte in shown}
    rest = sorted({*range(256)} - {*shown})
    values |= {chr(256 + place): byte for place, byte in enumerate(rest)}
    if number in tokenizer.backend.get_added_tokens_decoder() or not set(entry) <= set(values):
        return entry
    return bytes(values[char] for char in entry).decode("utf-8", "backslashreplace")


def _is_byte_level(tokenizer: SubwordTokenizer) -> bool:
    parts = tokenizer.backend.pre_tokenizer, tokenizer.backend.decoder
    return any(part is not None and b'"ByteLevel"' in part.__getstate__() for part in parts)


def with_mask_token(text: str, model: Model) -> str:
    """Write the model's own mask token for ``[MASK]``."""
    mask_id = model.text.mask_id
    return text if mask_id is None else text.replace("[MASK]", model.text.decode([mask_id])[0])


def reader(model: Model, *, words: bool = False, answer: bool = True) -> Callable[..., Reading]:
    """Prepare a model of text for encoding: return the function ``(text, pair=None)`` -> `Reading`.

    Pieces of one word are joined to one unit where `words` is set. The readout is the place of the
    model's output, without `answer` the first token. The function raises `InputError` for a text
    that is empty, too long for the model or not valid Unicode, that holds the separator of two
    texts, and, for a masked language model, without one mask token.
    """
    if isinstance(model.text, WordTokenizer):
        return partial(_whole_words, model)
    return partial(_pieces, model, words, answer)


def _check(text: str, size: int, model: Model, unit: str, special: int) -> None:
    if size > model.config.positions:
        raise InputError(
            f"a sentence must be at most {model.config.positions - special} {unit} for this model, "
            f"got {size - special}: {' '.join(text.split()[:5])} ..."
        )


def _valid(text: str, model: Model) -> None:
    most = LONGEST_TOKEN * model.config.positions
    if len(text) > most:  # before millions of tokens are made
        raise InputError(
            f"a sentence must be at most {most:,} characters for this model, got {len(text):,}: "
            f"{' '.join(text[:200].split()[:5])} ..."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the sentence {text!r} must be valid Unicode text") from error
    if not text.split():
        raise InputError("a sentence must have at least one word, got an empty one")


def _whole_words(model: Model, text: str, pair: str | None = None) -> Reading:
    if pair is not None:
        raise InputError("pair must be None for this model, which reads one text at a time")
    _valid(text, model)
    units = (Token(SPECIAL_TOKENS[1]), *_look_up(text.split(), model.text))
    _check(text, len(units), model, "words", 1)
    ids = model.text.encode(" ".join(unit.seen for unit in units[1:]))
    place = len(ids) - 1 if model.config.reads_last else 0
    return Reading(tuple(ids), units, tuple(range(len(ids))), place)


def _look_up(words: Iterable[str], tokenizer: Any) -> Iterable[Token]:
    """Look words up as they are, then in lower case, then without the punctuation at their ends.

    A model of whole words was trained on text in which punctuation and ``'s`` are words.
    """
    for word in words:
        if (token := _found(word, word, tokenizer)).known or word in SPECIAL_TOKENS:
            yield token
        else:
            parts = _separated(word)
            yield from (_found(part, form, tokenizer) for part, form in parts)


def _found(word: str, form: str, tokenizer: Any) -> Token:
    # Special tokens are no words: a sentence that spells one must not be read as padding.
    for seen in (form, form.lower()):
        if seen in tokenizer and seen not in SPECIAL_TOKENS:
            return Token(word, seen)
    return Token(word, SPECIAL_TOKENS[UNK], False)


def _separated(word: str) -> list[tuple[str, str]]:
    """Take punctuation and clitics off a word: the parts, and the form in which to look each up."""
    before: list[tuple[str, str]] = []
    after: list[tuple[str, str]] = []
    while len(word) > 1 and word[0] in _BEFORE:
        before.append((word[0], _QUOTES.get(word[0], word)[0]))
        word = word[1:]
    # The point of U.S. is part of the word.
    while len(word) > 1 and word[-1] in _AFTER and not (word[-1] == "." and "." in word[:-1]):
        after.append((word[-1], _QUOTES.get(word[-1], ("", word[-1]))[1]))
        word = word[:-1]
    if clitic := _CLITIC.fullmatch(word):
        word = clitic[1]
        after.append((clitic[2], clitic[2].replace("\u2019", "'")))
    return [*before, (word, word.replace("\u2019", "'")), *reversed(after)]


def _pieces(model: Model, words: bool, answer: bool, text: str, pair: str | None = None) -> Reading:
    texts = []
    for each in (text, pair):
        if each is not None:
            _valid(each, model)
            texts.append(with_mask_token(each, model))
    read = model.text.read(*texts)
    special = sum(word is None for word in read.words)
    _check(text, len(read.ids), model, "word pieces", special)
    place = _place(read, model) if answer else 0
    groups = [[number] for number in range(len(read.ids))]
    if words:
        groups = []
        for number, word in enumerate(read.words):
            if word is None or number == 0 or word != read.words[number - 1]:
                groups.append([])
            groups[-1].append(number)
    members = tuple(unit for unit, group in enumerate(groups) for _ in group)
    units = tuple(_token(texts, read, group, model) for group in groups)
    return Reading(read.ids, units, members, place, read.types)


def _place(read: Pieces, model: Model) -> int:
    if model.config.reads_last:
        ids = np.asarray(read.ids)
        places = np.flatnonzero(readable(model.config, ids, ids >= 0))
        return int(places[-1]) if places.size else 0
    if model.config.head != "masked-lm":
        return 0
    masks = [place for place, number in enumerate(read.ids) if number == model.text.mask_id]
    if len(masks) != 1:
        raise InputError(
            "a sentence for a masked language model must have one [MASK], got "
            f"{len(masks)}: write it in the place of the word to be predicted"
        )
    return masks[0]


def _token(texts: Sequence[str], read: Pieces, group: list[int], model: Model) -> Token:
    """Return one unit: the text of its tokens."""
    tokenizer: Any = model.text
    entries = [read.tokens[number] for number in group]
    ids = [read.ids[number] for number in group]
    begin, end = read.spans[group[0]][0], read.spans[group[-1]][1]
    written = texts[read.texts[group[0]] or 0][begin:end].strip()
    if len(group) == 1 and read.words[group[0]] is not None and _is_byte_level(tokenizer):
        piece = piece_text(tokenizer, ids[0])  # of half a character no text is written alone
        written = piece.strip() or piece.replace(" ", "␣")
    roles = {getattr(tokenizer, f"{role}_id") for role in ROLES if role != "unk"}
    if not written or ids[0] in roles:  # special tokens, and pieces of a character
        return Token(written or entries[0], entries[0], True)
    if tokenizer.unk_id in ids and read.words[group[0]] is not None and written != entries[0]:
        return Token(written, tokenizer.decode([tokenizer.unk_id or 0])[0], False)
    if len(group) == 1 and entries[0].startswith("##"):
        return Token(f"##{written}", entries[0], True)
    bare = "".join(entry.removeprefix("##") for entry in entries)
    return Token(written, bare if bare == written.lower() else written, True)
