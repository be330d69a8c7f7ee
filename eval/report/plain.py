"""Python and NumPy values as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from jaxflow.errors import InputError

__all__ = ["dump", "plain"]


def plain(value: Any) -> Any:
    """Turn a value into what JSON has: NaN and infinity into None, dataclasses into objects.

    Raises
    ------
    InputError
        If something in it has no such form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(entry) for entry in value]
    if isinstance(value, PathLike):
        return str(fspath(value))
    raise InputError(
        f"a result must be made of numbers, strings, lists and mappings, got {value!r}"
    )


def dump(value: Any, *, indent: int | None = 2) -> str:
    """Indented JSON text that every parser reads: no NaN literals; None makes it one line."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
