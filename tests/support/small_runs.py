"""Train for a few seconds, and compare two runs."""

import json

import jax
import numpy as np

from jaxflow import models

STEPS = 30


def journal_of(run):
    """The lines of ``metrics.jsonl`` without the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_equal_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def assert_ends_like(run, whole):
    """The run's model, journal and accuracy are those of another run, to the bit."""
    assert_equal_trees(models.load(run).params, models.load(whole).params)
    assert journal_of(run) == journal_of(whole)
    for name in ("accuracy.json", "config.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def steps_kept(run):
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir())
