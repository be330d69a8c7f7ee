"""Runs of a few seconds: their steps compiled once, what they leave, and whether two are one."""

import contextlib
import functools
import json

import jax
import numpy as np
import pytest

from jaxflow import models
from jaxflow.train import loop
from jaxflow.train.step import make_optimizer

STEPS = 30


@functools.cache
def compiled_train_step(model, config):
    return REAL_TRAIN_STEP(model, make_optimizer(config, STEPS), config)


REAL_TRAIN_STEP = loop.make_train_step
compiled_evaluation_step = functools.cache(loop.make_evaluation_step)


@contextlib.contextmanager
def surroundings(tmp_path_factory):
    """One corpus cache, a line in the journal for every step, and each step compiled once.

    Compiling takes nearly all of a small run's time. The step is a pure function of its arguments:
    which run it was compiled for does not matter, and killed runs compile theirs anew.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "loop-cache"))
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.setattr(
            loop, "make_train_step", lambda model, _, config: compiled_train_step(model, config)
        )
        patch.setattr(loop, "make_evaluation_step", compiled_evaluation_step)
        yield


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
    there, result = whole
    assert_equal_trees(models.load(run).params, result.model.params)
    assert journal_of(run) == journal_of(there)
    assert (run / "accuracy.json").read_bytes() == (there / "accuracy.json").read_bytes()


def steps_kept(run):
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir())
