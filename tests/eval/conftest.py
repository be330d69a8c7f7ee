"""Provide per-sentence scores with means that a test chooses."""

import numpy as np
import pytest

from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores


@pytest.fixture
def make_scores():
    """A function: row -> means per layer, for both targets, with seeded noise around them."""

    def make(means=None, entropy=None, *, sentences=60, layers=6, noise=0.05, seed=0):
        rng = np.random.default_rng(seed)

        def values(centre):
            return np.broadcast_to(centre, (sentences, layers)) + noise * rng.normal(
                size=(sentences, layers)
            )

        names = [(target, row) for target in TARGETS for row in ROWS]
        arrays = {f"{t}/{row}": values((means or {}).get(row, 0.0)) for t, row in names}
        saturated = np.clip(values(0.5), 0, 1)
        for row in ENTROPY_ROWS:
            arrays[f"entropy/{row}"] = values((entropy or {}).get(row, 0.5))
        arrays |= {"saturated": saturated, "length": rng.integers(5, 30, sentences)}
        return SentenceScores(arrays, layers)

    return make
