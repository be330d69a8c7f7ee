"""Write ``rollout.npz``: ``python tests/golden/make_rollout.py``. Needs NumPy only.

Independent of the project: matrices of exact fractions, converted to float64 at the very end.
Two sentences, the second of three tokens padded to four; 3 layers, 2 heads.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

LAYERS, HEADS, WIDTH = 3, 2, 4
LENGTHS = (4, 3)


def attention_row(sentence: int, layer: int, head: int, query: int) -> list[Fraction]:
    """Return one row of fractions that sum to exactly 1, 0 at padded keys."""
    n = LENGTHS[sentence]
    weights = [
        1 + (7 * sentence + 5 * layer + 3 * head + 2 * query + 11 * key * key) % 13
        for key in range(n)
    ]
    return [Fraction(weight, sum(weights)) for weight in weights] + [Fraction(0)] * (WIDTH - n)


def main() -> None:
    """Compute all quantities by their definitions and write them."""
    shape = (len(LENGTHS), LAYERS, HEADS, WIDTH, WIDTH)
    attention = np.zeros(shape)
    heads_result = np.zeros(shape)
    raw = np.zeros((len(LENGTHS), LAYERS, WIDTH, WIDTH))
    rollout = np.zeros_like(raw)
    half = Fraction(1, 2)
    for sentence, n in enumerate(LENGTHS):
        below = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
        for layer in range(LAYERS):
            above = [[Fraction(0)] * n for _ in range(n)]
            for head in range(HEADS):
                for i in range(n):
                    row = attention_row(sentence, layer, head, i)
                    attention[sentence, layer, head, i] = [float(entry) for entry in row]
                    edges = [half * row[k] + half * (i == k) for k in range(n)]
                    for j in range(n):
                        value = sum(edges[k] * below[k][j] for k in range(n))
                        heads_result[sentence, layer, head, i, j] = float(value)
                        above[i][j] += value / HEADS
                        raw[sentence, layer, i, j] += float(row[j]) / HEADS
            below = above
            rollout[sentence, layer, :n, :n] = [[float(entry) for entry in row] for row in above]
    np.savez_compressed(
        Path(__file__).with_name("rollout.npz"),
        attention=attention,
        mask=np.arange(WIDTH) < np.array(LENGTHS)[:, None],
        raw=raw,
        rollout=rollout,
        head_rollout=heads_result,
    )


if __name__ == "__main__":
    main()
