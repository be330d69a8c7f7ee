"""Layer and token indices, as the caller may give them."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxflow.errors import InputError

__all__ = ["resolve_index", "resolve_indices"]


def resolve_index(name: str, value: Any, size: int) -> int:
    """Return an index as a number from 0 to size - 1; negative ones count from the end.

    Raises
    ------
    InputError
        If `value` is not a whole number or out of range.
    """
    try:
        index = operator.index(value)
    except TypeError:
        index = size
    if isinstance(value, bool | np.bool_) or not -size <= index < size:
        raise InputError(f"{name} must be an index from {-size} to {size - 1}, got {value!r}")
    return index + size if index < 0 else index


def resolve_indices(name: str, value: Any, size: int) -> tuple[int, ...]:
    """Return one index, a sequence of them, or None for all, as a tuple of numbers from 0.

    Raises
    ------
    InputError
        If an index is not a whole number or out of range, or there is none at all.
    """
    if value is None:
        return tuple(range(size))
    if isinstance(value, Iterable) and not isinstance(value, str) and np.ndim(value) > 0:  # type: ignore[arg-type]
        indices = tuple(resolve_index(name, item, size) for item in value)
        if not indices:
            raise InputError(f"{name} must name at least one index, got none")
        return indices
    return (resolve_index(name, value, size),)
