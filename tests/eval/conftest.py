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

        return SentenceScores(
            correlations={
                target: {row: values((means or {}).get(row, 0.0)) for row in ROWS}
                for target in TARGETS
            },
            saturated=np.clip(values(0.5), 0, 1),
            entropy={row: values((entropy or {}).get(row, 0.5)) for row in ENTROPY_ROWS},
            length=rng.integers(5, 30, sentences),
        )

    return make
