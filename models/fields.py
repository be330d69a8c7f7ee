"""Fields of a record out of JSON: of the kinds that it says, and nothing turned into them."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxflow.errors import InputError

__all__ = ["check_fields"]

_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text",
}  # fmt: skip


def check_fields(record: type, fields: Mapping[str, Any]) -> None:
    """Check what JSON has for a dataclass against the types of its fields.

    Parameters
    ----------
    record
        Whose fields are bool, int, float, str, `Path`, tuples of one of these, literals, or None.
    fields
        Name -> value.

    Raises
    ------
    InputError
        If it is no mapping, or a field is unknown, of another kind or a whole number of more than
        63 bits. A whole number passes for a float, a list for a tuple, and text for a path; nothing
        else passes for something else.
    """
    if not isinstance(fields, Mapping):
        raise InputError(f"fields must be one JSON object, got {fields!r}")
    known = _kinds(record)
    for name, value in fields.items():
        if name not in known:
            raise InputError(f"there must be no other fields than {', '.join(known)}, got {name!r}")
        if not _fits(value, known[name]):
            raise InputError(f"{name} must be {_said(known[name])}, got {value!r}")


@functools.cache
def _kinds(record: Any) -> dict[str, Any]:
    kinds = get_type_hints(record)
    return {field.name: kinds[field.name] for field in dataclasses.fields(record)}


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if origin is tuple:
        parts = get_args(kind)
        if not isinstance(value, list | tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):  # of any number of digits, which no array holds
        return kind in (int, float) and abs(value) < 1 << 63
    return isinstance(value, kind) or (kind is Path and isinstance(value, str))


def _said(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_said(part) for part in get_args(kind))
    if origin is tuple:
        return f"a list, each {_said(get_args(kind)[0])}"
    return "null" if kind is type(None) else _NAMES[kind]
