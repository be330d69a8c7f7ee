"""Times, ratios and sizes as people read them."""

from __future__ import annotations

__all__ = ["bytes_text", "error_text", "ratio_text", "seconds_text"]


def seconds_text(seconds: float) -> str:
    """Three figures in s, ms or µs.

    >>> [seconds_text(seconds) for seconds in (12.345, 0.0123, 4.5e-6)]
    ['12.3 s', '12.3 ms', '4.5 µs']
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def ratio_text(ratio: float) -> str:
    """Write a ratio: whole from 100, three figures below.

    >>> [ratio_text(ratio) for ratio in (15032.7, 69.44, 0.523)]
    ['15,033x', '69.4x', '0.523x']
    """
    return f"{_three(ratio)}x"


def bytes_text(count: int | None) -> str:
    """Write a size in MB or kB; nothing for None.

    >>> [bytes_text(count) for count in (None, 0, 40960, 123456789)]
    ['', '0 kB', '41 kB', '123 MB']
    """
    if count is None:
        return ""
    return f"{_three(count / 1e6)} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def error_text(error: float | None) -> str:
    """Write an error in powers of ten; nothing for None.

    >>> [error_text(error) for error in (None, 0.0, 3.14e-12)]
    ['', '0', '3.1e-12']
    """
    if error is None:
        return ""
    return f"{error:.1e}" if error else "0"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
