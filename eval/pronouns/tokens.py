"""A schema in a model's numbers: where its mask and its referents are, and which words fill it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.schemas import MASK, Schema

__all__ = ["Placed", "place"]


@dataclasses.dataclass(frozen=True)
class Placed:
    """A schema in a tokenizer's numbers.

    Attributes
    ----------
    ids
        The n tokens, special ones included.
    mask
        Index of the masked token.
    referents
        Indices of each referent's word pieces.
    fillers
        Number of each filler's word piece.
    """

    ids: tuple[int, ...]
    mask: int
    referents: tuple[range, range]
    fillers: tuple[int, int]


def place(tokenizer: Any, schema: Schema) -> Placed:
    """Find the mask, the referents and the fillers among a tokenizer's numbers.

    Nothing is assumed of how words are cut: whatever changes when the mask token replaces a
    referent is the referent, and whatever replaces the mask in a filled sentence is the filler.

    Parameters
    ----------
    tokenizer
        Of a masked language model.
    schema
        The sentence.

    Raises
    ------
    InputError
        If a filler is not one word piece, or the tokenizer's text cannot be laid over the sentence.
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
    """Return how many numbers two sequences begin with together."""
    same = (place for place, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(same, min(len(a), len(b)))
