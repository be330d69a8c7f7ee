"""Sets of tokens as machine words: bit j of word w stands for token ``64 w + j``.

Statement: of up to 64 arcs that leave a node, the open ones that lead into a given set are one
AND away, and the first of them one count of trailing zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic as _intrinsic

from jaxflow._flow.compiled import counting

__all__ = ["BIT", "NONE", "lowest", "transpose"]

intrinsic: Any = _intrinsic

BIT = np.uint64(1)
NONE = np.uint64(0)


@intrinsic
def lowest(typingctx: Any, word: Any) -> Any:
    """Return the index of the lowest set bit of a non-zero ``uint64``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.uint64), generate


@counting
def transpose(rows: np.ndarray, columns: np.ndarray) -> None:
    """Write to `columns` the transpose of the bit matrix `rows`, both ``[n, words]``.

    Blocks of 64 x 64 bits at a time, swapping halves, quarters and so on inside each (Warren,
    *Hacker's Delight*, section 7-3).
    """
    n, words = rows.shape
    block = np.empty(64, np.uint64)
    for high in range(words):
        size = min(64, n - 64 * high)
        for word in range(words):
            block[:size] = rows[64 * high : 64 * high + size, word]
            block[size:] = NONE
            width = 32
            mask = np.uint64(0xFFFFFFFF)
            while width:
                shift = np.uint64(width)
                for base in range(0, 64, 2 * width):
                    for k in range(base, base + width):
                        swap = ((block[k] >> shift) ^ block[k + width]) & mask
                        block[k] ^= swap << shift
                        block[k + width] ^= swap
                width >>= 1
                mask ^= mask << np.uint64(width)
            for j in range(min(64, n - 64 * word)):
                columns[64 * word + j, high] = block[j]
