"""Runs that diverge or are told to stop: the step is named, the last good checkpoint kept."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_corpus import small_config, write_small_corpus
from small_runs import assert_ends_like, assert_equal_trees, steps_kept, surroundings

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.stopping import Stopped
from jaxflow.train import loop
from jaxflow.train.checkpoint import open_checkpoints
from jaxflow.train.loop import train
from jaxflow.train.step import make_optimizer


@pytest.fixture(autouse=True)
def _surroundings(tmp_path_factory):
    with surroundings(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "agreement")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """The result of a run that nothing disturbed."""
    with surroundings(tmp_path_factory):
        return train(small_config(data), tmp_path_factory.mktemp("runs") / "whole")


def spoiled_from(step_number, name, value):
    """Make the steps from that number on, from 0, find a value that no good step finds."""
    real = loop.make_train_step

    def make(*arguments):
        step = real(*arguments)

        def poisoned(state, tokens, labels):
            number = int(state.step)
            state, metrics = step(state, tokens, labels)
            found = jnp.where(number >= step_number, value, getattr(metrics, name))
            return state, metrics._replace(**{name: found})

        return poisoned

    return make


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("loss", float("nan"), "the loss is nan"),
        ("loss", 2e4, "the loss is 20000"),
        ("gradient_norm", float("inf"), "the gradient's norm is inf"),
        ("gradient_norm", float("nan"), "the gradient's norm is nan"),
    ],
)
def test_a_step_out_of_all_bounds_is_named(tmp_path, data, whole, monkeypatch, name, value, said):
    config, run = small_config(data), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 50)  # the step, though only line ends are looked at
        patch.setattr(loop, "make_train_step", spoiled_from(11, name, value))
        with pytest.raises(
            InputError, match=f"^{said} at step 12: training stopped, the last good"
        ):
            train(config, run)
    assert not (run / "model").exists()
    assert not (run / "accuracy.json").exists()
    assert steps_kept(run) == [7, 10]
    # What was kept is good: the same run goes on from there to the same end.
    train(config, run)
    assert_equal_trees(models.load(run).params, whole.model.params)


def signalled_in(step_number, number):
    """Make a step send this process a signal."""
    real = loop.make_train_step

    def make(*arguments):
        step = real(*arguments)

        def signalling(state, tokens, labels):
            if int(state.step) + 1 == step_number:
                os.kill(os.getpid(), number)
            return step(state, tokens, labels)

        return signalling

    return make


@pytest.mark.parametrize(
    ("number", "step", "kept"),
    [(signal.SIGTERM, 12, [10, 12]), (signal.SIGINT, 14, [10, 14]), (signal.SIGTERM, 30, [28, 30])],
)
def test_a_signal_stops_a_run_behind_its_step_without_a_trace(
    tmp_path, data, monkeypatch, number, step, kept
):
    # Lines at checkpoints only: one that a signal asks for is no reason for another line.
    monkeypatch.setattr(loop, "LOG_EVERY", 50)
    config, run, calm = small_config(data), tmp_path / "run", tmp_path / "calm"
    result = train(config, calm)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_train_step", signalled_in(step, number))
        with pytest.raises(
            Stopped, match=f"after step {step}, whose checkpoint is written"
        ) as caught:
            train(config, run)
    assert caught.value.number == number
    assert steps_kept(run) == kept
    assert not (run / "model").exists()
    assert not (run / ".lock").exists()
    said = []
    train(config, run, said.append)
    assert said[0].message == f"going on after step {step}"
    assert_ends_like(run, (calm, result))
    assert {path.name for path in run.iterdir()} == {path.name for path in calm.iterdir()}


def test_parameters_that_overflow_are_never_kept(tmp_path, data):
    run = tmp_path / "run"
    config = small_config(data, learning_rate=3e38, checkpoint_every=1, epochs=1)
    with pytest.raises(
        InputError, match=r"(loss is|norm is|no longer finite).* try a lower learning rate"
    ):
        train(config, run)
    assert not (run / "model").exists()
    with open_checkpoints(run / "checkpoints") as checkpoints:
        model = loop.encoder_config(config, loop.prepare(config).tokenizer)
        fresh = loop.init_state(model, make_optimizer(config, 10), config.seed)
        state = checkpoints.restore(fresh)
    assert int(state.step) >= 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_two_runs_on_one_folder(tmp_path, data):
    config, run = small_config(data), tmp_path / "run"
    refused = []

    def report(progress):
        if progress.step == 5:
            with pytest.raises(InputError, match=f"run is in use by process {os.getpid()} on "):
                train(config, run)
            refused.append(progress.step)

    train(config, run, report, stop_after=7)
    assert refused == [5]
    assert not (run / ".lock").exists()
