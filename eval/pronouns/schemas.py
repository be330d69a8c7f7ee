"""Read sentences with a masked pronoun and two referents, and encode them for a model.

The format, and how the bundled sentences were written, is in ``eval/schemas/README.md``.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError

#: The pronoun's place, whatever the model's own mask token is called.
MASK = "[MASK]"

FOLDER = Path(__file__).parents[1] / "schemas"

#: The bundled pairs, and the two sentences of the paper's Figure 4.
BUNDLED, PAPER = FOLDER / "pronouns.tsv", FOLDER / "paper.tsv"

REQUIRED = ("pair", "sentence", "referent_1", "filler_1", "referent_2", "filler_2")
OPTIONAL = ("intended",)
OPEN = "-"  # the intended referent of a sentence that has none


@dataclasses.dataclass(frozen=True)
class Schema:
    """A sentence whose masked pronoun means one of two referents.

    `referents` are spelt as in the sentence and in its order, and each occurs once as a whole word.
    Raises `InputError` if a field is not as described.
    """

    sentence: str  # with `MASK` once
    referents: tuple[str, str]
    fillers: tuple[str, str]  # the pronoun that means each of them
    intended: int | None = None  # the referent that people mean; None where both readings are open
    pair: str = ""  # a name that it shares with at most one other sentence of its file
    where: str = "the sentence"  # where it comes from, for messages

    def __post_init__(self) -> None:
        times = self.sentence.count(MASK)
        if times != 1:
            raise InputError(
                f"{self.where}: the sentence must hold {MASK} once, got it {times} times in "
                f"{self.sentence!r}"
            )
        (_, end), (start, _) = (self.span(which) for which in (0, 1))
        if start < end:
            raise InputError(
                f"{self.where}: the first referent must stand before the second, got "
                f"{self.referents[0]!r} and {self.referents[1]!r} in {self.sentence!r}"
            )
        for filler in self.fillers:
            if not re.fullmatch(r"\w+", filler):
                raise InputError(f"{self.where}: a filler must be one word, got {filler!r}")
        if self.fillers[0] == self.fillers[1]:
            raise InputError(
                f"{self.where}: the fillers must be two different words, got {self.fillers[0]!r} "
                "for both referents"
            )

    def span(self, which: int) -> tuple[int, int]:
        """Return where a referent begins and ends in the sentence, in characters.

        Raises `InputError` if it does not occur there exactly once as whole words.
        """
        word = self.referents[which]
        places = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", self.sentence))
        if not word.strip() or len(places) != 1:
            raise InputError(
                f"{self.where}: the referent {word!r} must occur once as a whole word, got it "
                f"{len(places)} times in {self.sentence!r}"
            )
        return places[0].span()


def read_schemas(path: Path = BUNDLED) -> tuple[Schema, ...]:
    """Read a file of sentences, tabs between its columns; by default the bundled pairs.

    Raises `InputError` if the file cannot be read, holds no sentence, or a line of it is no schema:
    the message names the line. A sentence may occur in it once, and a pair's name twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the schemas {path} cannot be read: {reason}") from error
    lines = [
        (f"{path}, line {number}", line.rstrip("\r").split("\t"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if len(lines) < 2:
        raise InputError(
            f"the schemas {path} must hold a line with the columns' names and at least one "
            f"sentence, got {len(lines)} lines"
        )
    columns = _check_columns(*lines[0])
    schemas = tuple(_read_line(where, columns, fields) for where, fields in lines[1:])
    _check_once(schemas)
    return schemas


def parse_schema(text: str) -> Schema:
    """Read a sentence as on the command line, then its referents, each with its pronoun.

    Raises `InputError` if it has another form.

    Examples
    --------
    >>> parse_schema("Ann met Paul near [MASK] car. | Ann=her | Paul=his").fillers
    ('her', 'his')
    """
    sentence, *pairs = (part.strip() for part in text.split("|"))
    halves = [[half.strip() for half in pair.split("=")] for pair in pairs]
    if len(halves) != 2 or any(len(half) != 2 for half in halves):
        raise InputError(
            'a sentence must be given as "Ann met Paul near [MASK] car. | Ann=her | Paul=his", '
            f"got {text!r}"
        )
    (first, its), (second, others) = halves
    return Schema(sentence, (first, second), (its, others))


def _check_columns(where: str, columns: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in columns)
    lacking = [name for name in REQUIRED if name not in names]
    if lacking or len(set(names)) != len(names) or set(names) - {*REQUIRED, *OPTIONAL}:
        raise InputError(
            f"{where}: the columns must be {', '.join(REQUIRED)} and, if wanted, "
            f"{', '.join(OPTIONAL)}, with tabs between them, got {', '.join(names)}"
        )
    return names


def _read_line(where: str, columns: Sequence[str], fields: Sequence[str]) -> Schema:
    if len(fields) != len(columns):
        raise InputError(
            f"{where}: expected {len(columns)} columns with tabs between them, got {len(fields)}"
        )
    row = dict(zip(columns, (field.strip() for field in fields), strict=True))
    if not row["pair"]:
        raise InputError(f"{where}: the pair must have a name, got none")
    referents = row["referent_1"], row["referent_2"]
    intended = row.get("intended", OPEN)
    if intended not in (OPEN, *referents):
        raise InputError(
            f"{where}: intended must be {referents[0]!r}, {referents[1]!r} or {OPEN!r}, got "
            f"{intended!r}"
        )
    return Schema(
        sentence=row["sentence"],
        referents=referents,
        fillers=(row["filler_1"], row["filler_2"]),
        intended=None if intended == OPEN else referents.index(intended),
        pair=row["pair"],
        where=where,
    )


def _check_once(schemas: Sequence[Schema]) -> None:
    """Raise `InputError` for a sentence that occurs twice, and for pairs of more than two."""
    first: dict[str, Schema] = {}
    pairs: Counter[str] = Counter()
    for schema in schemas:
        before = first.setdefault(schema.sentence, schema)
        if before is not schema:
            raise InputError(
                f"{schema.where}: a sentence may stand in a file once, got {schema.sentence!r} "
                f"again after {before.where}"
            )
        pairs[schema.pair] += 1
        if pairs[schema.pair] > 2:
            raise InputError(
                f"{schema.where}: a pair must have at most two sentences, got a third one of "
                f"{schema.pair!r}"
            )


@dataclasses.dataclass(frozen=True)
class Placed:
    """A schema in a tokenizer's ids."""

    ids: tuple[int, ...]  # the n tokens, special ones included
    mask: int  # index of the masked token
    referents: tuple[range, range]  # indices of each referent's word pieces
    fillers: tuple[int, int]  # id of each filler's word piece


def place(tokenizer: Any, schema: Schema) -> Placed:
    """Find the mask, the referents and the fillers among the ids of a masked model's tokenizer.

    Nothing is assumed of how words are cut: whatever changes when the mask token replaces a
    referent is the referent, and whatever replaces the mask in a filled sentence is the filler.
    Raises `InputError` if a filler is not one word piece, or the tokenizer's text cannot be aligned
    with the sentence.
    """
    mask_id = tokenizer.mask_id
    (token,) = tokenizer.decode([mask_id])

    def encode(sentence: str) -> list[int]:
        return list(tokenizer.encode(sentence.replace(MASK, token)))

    ids = encode(schema.sentence)
    if ids.count(mask_id) != 1:
        raise InputError(
            f"{schema.where}: the sentence must hold one mask token {token!r} of the model, got "
            f"{ids.count(mask_id)} in {schema.sentence!r}"
        )
    at = ids.index(mask_id)
    first, second = (_pieces(schema, which, ids, encode) for which in (0, 1))
    one, other = (_filler(tokenizer, schema, filler, ids, at) for filler in schema.fillers)
    if one == other:
        raise InputError(
            f"{schema.where}: the fillers must be two words to the model, which reads "
            f"{schema.fillers[0]!r} and {schema.fillers[1]!r} alike"
        )
    return Placed(tuple(ids), at, (first, second), (one, other))


def _pieces(
    schema: Schema, which: int, ids: list[int], encode: Callable[[str], list[int]]
) -> range:
    start, end = schema.span(which)
    masked = encode(f"{schema.sentence[:start]}{MASK}{schema.sentence[end:]}")
    before, after = _common(ids, masked), _common(ids[::-1], masked[::-1])
    pieces = range(before, len(ids) - after)
    if before + 1 + after != len(masked) or not pieces:
        raise InputError(
            f"{schema.where}: the referent {schema.referents[which]!r} must be word pieces of its "
            f"own to the model, which joins it with its neighbours in {schema.sentence!r}"
        )
    return pieces


def _filler(tokenizer: Any, schema: Schema, filler: str, ids: list[int], at: int) -> int:
    filled = list(tokenizer.encode(schema.sentence.replace(MASK, filler)))
    if len(filled) != len(ids) or filled[:at] != ids[:at] or filled[at + 1 :] != ids[at + 1 :]:
        raise InputError(
            f"{schema.where}: the filler {filler!r} must be one word piece of the model, got "
            f"{len(filled) - len(ids) + 1}"
        )
    if filled[at] == tokenizer.unk_id:
        raise InputError(f"{schema.where}: the model does not know the filler {filler!r}")
    return filled[at]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common beginning of two sequences."""
    same = (place for place, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(same, min(len(a), len(b)))
