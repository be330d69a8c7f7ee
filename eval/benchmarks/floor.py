"""What no solver can beat: reading its input once, at the speed of this machine's memory."""

from __future__ import annotations

import statistics
import time

import numpy as np

__all__ = ["copy_bandwidth", "floor_seconds"]

# Doubles; 256 MB are more than any cache holds.
_NUMBERS = 32_000_000
_ROUNDS = 7


def copy_bandwidth(numbers: int = _NUMBERS) -> float:
    """Measure the bandwidth of a large copy on one thread.

    Parameters
    ----------
    numbers
        How many doubles are copied.

    Returns
    -------
    float
        Bytes a second, read and written ones together; the median of a few copies.
    """
    source, target = np.zeros(numbers), np.empty(numbers)
    source += 1.0  # pages of zeros may all be one page
    np.copyto(target, source)  # the first touch of a page is no part of it
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(times)


def floor_seconds(layers: int, tokens: int, bandwidth: float) -> float:
    """Return the seconds of one read of ``layers * tokens ** 2`` doubles at a bandwidth."""
    return layers * tokens**2 * 8 / bandwidth
