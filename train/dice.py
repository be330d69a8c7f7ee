"""Random choices that a seed decides, on every machine and with every version of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["Dice"]

T = TypeVar("T")
_WORD = 2**64


class Dice:
    """Random choices made from the raw 64-bit words of PCG64 alone.

    NumPy fixes the words of a bit generator for good, but not how ``Generator`` turns them into
    numbers; with plain arithmetic on the words a seed means the same corpus everywhere.

    Parameters
    ----------
    seed : int or sequence of int
        Non-negative entropy of the stream.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """Return an integer of ``0 ... n - 1``; its bias is at most n / 2⁶⁴."""
        if not self._words:
            self._words = self._bits.random_raw(4096).tolist()
        return (self._words.pop() * n) >> 64

    def chance(self, share: float) -> bool:
        """Return True in ``share`` of all cases."""
        return self.below(_WORD) < share * _WORD

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``, each equally likely."""
        return options[self.below(len(options))]

    def weighted(self, shares: Sequence[float]) -> int:
        """Return index ``i`` with probability ``shares[i]``."""
        point = self.below(_WORD) / _WORD
        for index, share in enumerate(shares):
            point -= share
            if point < 0:
                return index
        return len(shares) - 1

    def shuffle(self, items: list[int]) -> None:
        """Bring ``items`` into a random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
