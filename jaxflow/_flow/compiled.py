"""How functions are compiled: with or without counting who holds an array.

Statement: a function that only reads and writes arrays which its caller holds on to need not count
references to them. numba counts them by atomic steps at every call and every view, which for short
sentences took longer than their flows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit as _njit

__all__ = ["bare", "counting"]

# Its signature does not name the option.
njit: Any = _njit


def counting(function: Callable[..., Any]) -> Any:
    """Compile a function that makes arrays, or hands out views of them."""
    return _compile(function, True)


def bare(function: Callable[..., Any]) -> Any:
    """Compile a function that makes no array, and returns none but views for `bare` callers."""
    return _compile(function, False)


def _compile(function: Callable[..., Any], counts: bool) -> Any:
    try:
        return njit(nogil=True, _nrt=counts)(function)
    except (KeyError, TypeError):  # not every version of numba offers the choice
        return njit(nogil=True)(function)
