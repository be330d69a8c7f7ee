"""Test runs that are interrupted, killed, damaged or diverge: they resume or raise an error."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from session import once_a_session
from small_corpus import small_config
from small_runs import STEPS, assert_ends_like, assert_equal_trees, journal_of, steps_kept

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.stopping import Stopped
from jaxflow.train import loop
from jaxflow.train.config import FineTuneConfig, TrainConfig
from jaxflow.train.loop import train
from jaxflow.train.run import Journal, read_config


@pytest.fixture(autouse=True)
def _every_step_is_logged(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.fixture(scope="session")
def whole(corpus):
    """Folder of a run of 30 steps that nothing disturbed, a line in its journal for each."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "LOG_EVERY", 1)
            train(small_config(corpus), folder)

    return once_a_session("whole-run", make)


def no_training(*_):
    raise AssertionError("a step was taken")


def test_a_whole_run_leaves_what_it_promises(whole, corpus):
    assert {path.name for path in whole.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "model", "accuracy.json"
    }  # fmt: skip
    assert read_config(whole) == small_config(corpus)
    assert steps_kept(whole) == [28, 30]
    accuracy = json.loads((whole / "accuracy.json").read_text())
    assert {name: score["n"] for name, score in accuracy.items()} == {
        "val": 30, "test": 60, "test_1": 20, "test_2": 20, "subjects": 20
    }  # fmt: skip
    journal = journal_of(whole)
    losses = [entry for entry in journal if "loss" in entry]
    scores = [entry for entry in journal if "held_out" in entry]
    assert list(losses[0]) == ["step", "loss", "accuracy", "gradient_norm"]
    assert [entry["step"] for entry in losses] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in scores] == [10, 20, 30]
    assert scores[-1]["held_out"] == {  # never the test
        name: accuracy[name]["accuracy"] for name in ("val", "subjects")
    }
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("stop", [1, 13])
def test_a_run_cut_off_after_a_checkpoint_goes_on_bit_for_bit(tmp_path, corpus, whole, stop):
    config, run = small_config(corpus), tmp_path / "run"
    cut = train(config, run, stop_after=stop)
    assert cut.accuracy == {}
    assert not (run / "model").exists()
    assert steps_kept(run)[-1] == stop
    half = run / "checkpoints" / "29.orbax-checkpoint-tmp"  # what Orbax leaves when it is killed
    shutil.copytree(run / "checkpoints" / str(stop), half)
    result = train(config, run)
    assert result.accuracy == json.loads((whole / "accuracy.json").read_text())
    assert_ends_like(run, whole)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from jaxflow.train import loop
from jaxflow.train.config import TrainConfig

def report(progress):
    if progress.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)

loop.LOG_EVERY = 1
loop.train(TrainConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), report)
"""


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, corpus, whole):
    config, run = small_config(corpus), tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(config.to_dict()), str(run)], capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert steps_kept(run) == [7, 10]
    assert [entry["step"] for entry in journal_of(run) if "loss" in entry][-1] == 12
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # what a crash of the machine can leave
    said = []
    train(config, run, said.append)
    assert said[0].message == "going on after step 10"
    assert_ends_like(run, whole)


def with_each_step(monkeypatch, do):
    """Have ``do(number, state, metrics)`` after every training step, of which number is from 1."""
    real = loop.make_step

    def make(*arguments):
        step = real(*arguments)

        def changed(state, **batch):
            number = int(state.step) + 1
            return do(number, *step(state, **batch))

        return changed

    monkeypatch.setattr(loop, "make_step", make)


@pytest.mark.parametrize(
    ("number", "step", "kept"),
    [(signal.SIGTERM, 12, [10, 12]), (signal.SIGINT, 14, [10, 14]), (signal.SIGTERM, 30, [28, 30])],
)
def test_a_signal_stops_a_run_after_its_step_without_a_trace(
    tmp_path, corpus, whole, monkeypatch, number, step, kept
):
    config, run = small_config(corpus), tmp_path / "run"

    def signalled(at, state, metrics):
        if at == step:
            os.kill(os.getpid(), number)
        return state, metrics

    with monkeypatch.context() as patch:
        # Lines at checkpoints only: one that a signal asks for is no reason for another line.
        patch.setattr(loop, "LOG_EVERY", 50)
        with_each_step(patch, signalled)
        with pytest.raises(
            Stopped, match=f"after step {step}, whose checkpoint is written"
        ) as caught:
            train(config, run)
    assert caught.value.number == number
    assert steps_kept(run) == kept
    assert not (run / "model").exists()
    assert not (run / ".lock").exists()
    pending = run / "pending.json"
    assert pending.exists() == (step == 12)
    if pending.exists():
        found = json.loads(pending.read_text())
        assert [len(found["metrics"]), found["step"]] == [2, 12]
        for row in found["metrics"]:
            row.pop("accuracy")
        shutil.copytree(run, tmp_path / "other")
        (tmp_path / "other" / "pending.json").write_text(json.dumps(found))
        with pytest.raises(InputError, match=r"pending\.json must hold .* delete it"):
            train(config, tmp_path / "other")
    monkeypatch.setattr(loop, "LOG_EVERY", 50)
    said = []
    train(config, run, said.append)
    assert said[0].message == f"going on after step {step}"
    assert_equal_trees(models.load(run).params, models.load(whole).params)
    lines = [entry for entry in journal_of(run) if "loss" in entry]
    singles = [entry["loss"] for entry in journal_of(whole) if "loss" in entry]
    assert [entry["step"] for entry in lines] == [7, 10, 14, 20, 21, 28, 30]
    assert lines[2]["loss"] == pytest.approx(np.mean(singles[10:14]), rel=1e-6)
    assert not pending.exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("loss", float("nan"), "the loss is nan"),
        ("loss", 2e4, "the loss is 20000"),
        ("gradient_norm", float("inf"), "the gradient's norm is inf"),
    ],
)
def test_a_step_out_of_all_bounds_is_named(tmp_path, corpus, whole, monkeypatch, name, value, said):
    config, run = small_config(corpus), tmp_path / "run"

    def spoiled(number, state, metrics):
        return state, {**metrics, name: jnp.where(number >= 12, value, metrics[name])}

    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 50)  # the step, though only line ends are looked at
        with_each_step(patch, spoiled)
        with pytest.raises(
            InputError, match=f"^{said} at step 12: training stopped, the last good"
        ):
            train(config, run)
    assert not (run / "model").exists()
    assert steps_kept(run) == [7, 10]


def test_parameters_that_overflow_are_never_kept(tmp_path, corpus, monkeypatch):
    def spoiled(number, state, metrics):
        if number == 9:
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
        return state, metrics

    with_each_step(monkeypatch, spoiled)
    config = small_config(corpus, checkpoint_every=1)
    with pytest.raises(InputError, match=r"no longer finite after step 9.*lower learning rate"):
        train(config, tmp_path)
    assert steps_kept(tmp_path) == [7, 8]


def test_a_finished_run_under_another_name_is_not_trained_again(
    tmp_path, corpus, whole, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    monkeypatch.setattr(loop, "make_step", lambda *_: no_training)
    monkeypatch.chdir(corpus.parent)
    train(small_config(Path(corpus.name)), run)
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert_ends_like(run, whole)


def test_another_configuration_in_the_same_folder(whole, corpus):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for name, value in {"learning_rate": 2e-3, "seed": 5, "buckets": (20,)}.items():
        with pytest.raises(InputError, match=f"another configuration \\({name} is ") as caught:
            train(small_config(corpus, **{name: value}), whole)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"epoch": 3}', '{"epochs": "3"}', '{"buckets": ["x"]}']
)
def test_a_damaged_configuration(tmp_path, corpus, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="configuration") as caught:
        train(small_config(corpus), tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_configuration_survives_its_file(tmp_path):
    for config in (
        small_config(tmp_path, learning_rate=0.1 + 0.2, flow_weight=2.5),
        FineTuneConfig(dropout=0.25, started_from="x"),
    ):
        kind = type(config)
        assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert kind.from_dict({}) == kind()


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (TrainConfig, "epochs", 0, "at least 1"),
        (TrainConfig, "positions", 0, "at least 1"),
        (TrainConfig, "dropout", 1.0, r"in \[0, 1\)"),
        (TrainConfig, "warmup", 1.5, r"in \[0, 1\]"),
        (TrainConfig, "learning_rate", float("nan"), "positive and finite"),
        (TrainConfig, "flow_weight", float("inf"), "at least 0"),
        (TrainConfig, "weight_decay", -0.1, "at least 0"),
        (TrainConfig, "buckets", (0, 8), "lengths from 1"),
        (FineTuneConfig, "average", 1.0, r"in \[0, 1\)"),
        (FineTuneConfig, "dropout", -0.1, r"in \[0, 1\)"),
        (FineTuneConfig, "layer_decay", 0.0, r"in \(0, 1\]"),
        (FineTuneConfig, "schedule", "square", "linear or cosine"),
    ],
)
def test_impossible_values_are_named(kind, name, value, expected):
    with pytest.raises(InputError, match=f"{name} must be {expected}"):
        kind(**{name: value})


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_folder_that_cannot_be_written(tmp_path, corpus, monkeypatch, place):
    (tmp_path / "file").write_text("here first")
    monkeypatch.setattr(loop, "make_step", no_training)
    with pytest.raises(InputError, match="cannot be written") as caught:
        train(small_config(corpus), tmp_path / place)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="width must be a multiple of heads"):
        train(small_config(corpus, width=15), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_runs_on_one_folder(tmp_path, corpus):
    config, run = small_config(corpus), tmp_path / "run"
    refused = []

    def report(progress):
        if progress.step == 5:
            with pytest.raises(InputError, match=f"run is in use by process {os.getpid()} on "):
                train(config, run)
            refused.append(progress.step)

    train(config, run, report, stop_after=7)
    assert refused == [5]
    for name in ("metrics.jsonl", "checkpoints"):  # a place in the run that is taken
        target = run / name
        target.rename(tmp_path / name)
        target.mkdir() if name == "metrics.jsonl" else target.write_text("")
        with pytest.raises(InputError, match=name):
            train(config, run)
        target.rmdir() if name == "metrics.jsonl" else target.unlink()
        (tmp_path / name).rename(target)


def test_sentences_that_do_not_fit_are_reported(tmp_path, corpus):
    said = []
    config = small_config(corpus, positions=9, epochs=1, batch=16)
    result = train(config, tmp_path, said.append, stop_after=1)
    result = train(config, tmp_path)
    texts = {
        name: [line.split("\t")[1].split() for line in (corpus / name).read_text().splitlines()]
        for name in ("numpred.train", "numpred.train.attractors", "numpred.test.1")
    }
    # With [CLS] in front a sentence of nine words needs ten positions.
    long = {name: sum(len(words) > 8 for words in rows) for name, rows in texts.items()}
    training = long["numpred.train"] + long["numpred.train.attractors"]
    assert said[0].message == f"{training} training sentences exceed 9 tokens and are left out"
    assert result.accuracy["test_1"]["too_long"] == long["numpred.test.1"] > 0
    assert result.accuracy["test_1"]["n"] == 20
    assert result.accuracy["test_1"]["accuracy"] <= 1 - long["numpred.test.1"] / 20


def test_the_journal_goes_on_from_a_step(tmp_path):
    journal = Journal(tmp_path, 0)
    for step in range(1, 6):
        journal.write(step, loss=1 / step, seconds=step * 2.0)
    journal.close()
    journal = Journal(tmp_path, 3)
    assert journal.seconds_before == 6.0
    journal.write(4, loss=0.5, seconds=9.0)
    journal.close()
    assert [entry["step"] for entry in journal_of(tmp_path)] == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl .* line 2 is damaged"):
        Journal(tmp_path, 3)


def test_pending_metrics_are_those_of_their_step(tmp_path):
    journal = Journal(tmp_path, 0)
    read = functools.partial(journal.read_pending, 3)
    rows = [{"loss": 0.1 + 0.2, "accuracy": 1.0}]
    journal.write_pending(3, rows)
    assert journal.read_pending(4) == []
    assert read() == rows
    for text in (
        "",
        "{}",
        '{"step": 3, "metrics": 5}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": []}]}',
        '{"step": 3, "metrics": [{"accuracy": 1}]}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": NaN}]}',
    ):
        (tmp_path / "pending.json").write_text(text)
        with pytest.raises(InputError, match=r"pending\.json .* damaged: delete it"):
            read()
    journal.clear_pending()
    assert read() == []
    journal.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_is_full_for_the_journal(tmp_path):
    journal = Journal(tmp_path, 0)
    journal.close()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal._file = (tmp_path / "metrics.jsonl").open("ab", buffering=0)
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be written: No space left"):
        journal.write(1, loss=1.0)
    journal.close()
