"""Test runs that are interrupted, killed, damaged or diverge: they resume or raise an error."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from session import once_a_session, refused
from small_corpus import small_config
from small_runs import STEPS, assert_ends_like, assert_equal_trees, journal_of, steps_kept

from jaxflow import models
from jaxflow.stopping import Stopped
from jaxflow.train import loop
from jaxflow.train.config import FineTuneConfig, TrainConfig
from jaxflow.train.loop import train
from jaxflow.train.run import Journal, read_config

NAN = float("nan")


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


def losses_of(run):
    return {line["step"]: line["loss"] for line in journal_of(run) if "loss" in line}


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
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["step", "loss", "accuracy", "gradient_norm", "seconds"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert list(losses_of(whole)) == list(range(1, STEPS + 1))
    scores = {line["step"]: line["held_out"] for line in lines if "held_out" in line}
    assert list(scores) == [10, 20, 30]
    # Never the test splits.
    assert scores[30] == {name: accuracy[name]["accuracy"] for name in ("val", "subjects")}


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
    config, run, said = small_config(corpus), tmp_path / "run", []
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(config.to_dict()), str(run)], capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert (steps_kept(run), max(losses_of(run))) == ([7, 10], 12)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # what a crash of the machine can leave
    # What Orbax leaves when it is killed.
    shutil.copytree(run / "checkpoints/10", run / "checkpoints/29.orbax-checkpoint-tmp")
    train(config, run, said.append)
    assert said[0].message == "going on after step 10"
    assert_ends_like(run, whole)


def with_each_step(monkeypatch, do):
    """Have ``do(number, state, metrics)`` after every training step, of which number is from 1."""
    real = loop.make_step

    def make(*arguments):
        step = real(*arguments)
        return lambda state, **batch: do(int(state.step) + 1, *step(state, **batch))

    monkeypatch.setattr(loop, "make_step", make)


@pytest.mark.parametrize(
    ("number", "step", "kept"), [(signal.SIGTERM, 12, [10, 12]), (signal.SIGINT, 30, [28, 30])]
)
def test_a_signal_stops_a_run_after_its_step_without_a_trace(
    tmp_path, corpus, whole, monkeypatch, number, step, kept
):
    config, run, said = small_config(corpus), tmp_path / "run", []
    pending = run / "pending.json"

    def signalled(at, state, metrics):
        if at == step:
            os.kill(os.getpid(), number)
        return state, metrics

    # Lines at checkpoints only: one that a signal asks for is no reason for another line.
    monkeypatch.setattr(loop, "LOG_EVERY", 50)
    with monkeypatch.context() as patch:
        with_each_step(patch, signalled)
        with pytest.raises(Stopped, match=f"after step {step}, whose checkpoint is") as caught:
            train(config, run)
    assert (caught.value.number, steps_kept(run)) == (number, kept)
    assert not (run / "model").exists()
    assert not (run / ".lock").exists()
    assert pending.exists() == (step == 12)
    if step == 12:
        found = json.loads(pending.read_text())
        assert [len(found["metrics"]), found["step"]] == [2, 12]
        for row in found["metrics"]:
            row.pop("accuracy")
        shutil.copytree(run, tmp_path / "other")
        (tmp_path / "other/pending.json").write_text(json.dumps(found))
        with refused(r"pending\.json must hold .* delete it"):
            train(config, tmp_path / "other")
    train(config, run, said.append)
    assert said[0].message == f"going on after step {step}"
    assert_equal_trees(models.load(run).params, models.load(whole).params)
    lines, singles = losses_of(run), losses_of(whole)
    assert list(lines) == [7, 10, 14, 20, 21, 28, 30]
    assert lines[14] == pytest.approx(np.mean([singles[at] for at in range(11, 15)]), rel=1e-6)
    assert not pending.exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("loss", NAN, "the loss is nan at step 12"),
        ("loss", 2e4, "the loss is 20000 at step 12"),
        ("gradient_norm", float("inf"), "the gradient's norm is inf at step 12"),
        ("params", NAN, "parameters are no longer finite after step 14"),
    ],
)
def test_a_step_out_of_all_bounds_is_named(tmp_path, corpus, monkeypatch, name, value, said):
    def spoiled(number, state, metrics):
        if number < 12:
            return state, metrics
        if name == "params" and number == 14:
            return state._replace(params=jax.tree.map(lambda p: p * value, state.params)), metrics
        return state, {**metrics, name: jnp.float32(value)} if name in metrics else metrics

    monkeypatch.setattr(loop, "LOG_EVERY", 50)  # the step, though only line ends are looked at
    with_each_step(monkeypatch, spoiled)
    with refused(f"^{said}: training stopped, the last good .* lower learning rate"):
        train(small_config(corpus), tmp_path)
    assert not (tmp_path / "model").exists()
    assert steps_kept(tmp_path) == [7, 10]


def test_a_finished_run_under_another_name_is_not_trained_again(
    tmp_path, corpus, whole, monkeypatch
):
    run = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(loop, "make_step", lambda *_: no_training)
    monkeypatch.chdir(corpus.parent)
    train(small_config(Path(corpus.name)), run)
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert_ends_like(run, whole)


def test_another_configuration_in_the_same_folder(whole, corpus):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for name, value in {"learning_rate": 2e-3, "seed": 5, "buckets": (20,)}.items():
        with refused(f"another configuration \\({name} is "):
            train(small_config(corpus, **{name: value}), whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["[]", '{"epoch": 3}', '{"epochs": "3"}', '{"buckets": ["x"]}'])
def test_a_damaged_configuration(tmp_path, corpus, text):
    assert TrainConfig.from_dict({}) == TrainConfig()
    (tmp_path / "config.json").write_text(text)
    with refused("configuration"):
        train(small_config(corpus), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (TrainConfig, "epochs", 0, "at least 1"),
        (TrainConfig, "positions", 0, "at least 1"),
        (TrainConfig, "dropout", 1.0, r"in \[0, 1\)"),
        (TrainConfig, "warmup", 1.5, r"in \[0, 1\]"),
        (TrainConfig, "learning_rate", NAN, "positive and finite"),
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
    with refused(f"{name} must be {expected}"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("place", "width", "said"),
    [
        ("file/run", 16, "cannot be written"),
        ("file", 16, "cannot be written"),
        ("run", 15, "width must be a multiple of heads"),
    ],
)
def test_what_cannot_be_written_or_built(tmp_path, corpus, monkeypatch, place, width, said):
    (tmp_path / "file").write_text("here first")
    monkeypatch.setattr(loop, "make_step", no_training)
    with refused(said):
        train(small_config(corpus, width=width), tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_runs_on_one_folder(tmp_path, corpus):
    config, run, seen = small_config(corpus), tmp_path / "run", []

    def report(progress):
        if progress.step == 5:
            with refused(f"run is in use by process {os.getpid()} on "):
                train(config, run)
            seen.append(progress.step)

    train(config, run, report, stop_after=7)
    assert seen == [5]
    # A place in the run that is taken.
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with refused(r"metrics\.jsonl"):
        train(config, run)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    with refused("checkpoints"):
        train(config, run)


def test_sentences_that_do_not_fit_are_counted(corpus):
    data = loop.prepare(small_config(corpus, positions=9))

    def long(name):
        # With [CLS] in front a sentence of nine words needs ten positions.
        lines = (corpus / f"numpred.{name}").read_text().splitlines()
        return sum(len(line.split("\t")[1].split()) > 8 for line in lines)

    assert data.too_long == long("train") + long("train.attractors") > 0
    assert data.held_out["test_1"].too_long == long("test.1") > 0
    assert len(data.held_out["test_1"]) == 20 - long("test.1")


def test_the_journal_goes_on_from_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with closing(Journal(tmp_path, 0)) as journal:
        for step in range(1, 6):
            journal.write(step, loss=1 / step, seconds=step * 2.0)
    with closing(Journal(tmp_path, 3)) as journal:
        assert journal.seconds_before == 6.0
        journal.write(4, loss=0.5, seconds=9.0)
    assert [entry["step"] for entry in journal_of(tmp_path)] == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"step": 1}\n{"loss": 2}\n')
    with refused(r"metrics\.jsonl .* line 2 is damaged"):
        Journal(tmp_path, 3)
    if Path("/dev/full").exists():
        path.unlink()
        path.symlink_to("/dev/full")
        journal._file = path.open("ab", buffering=0)
        with closing(journal), refused(r"metrics\.jsonl cannot be written: No space left"):
            journal.write(1, loss=1.0)


def test_pending_metrics_are_those_of_their_step(tmp_path):
    rows = [{"loss": 0.1 + 0.2, "accuracy": 1.0}]
    with closing(Journal(tmp_path, 0)) as journal:
        journal.write_pending(3, rows)
        assert journal.read_pending(4) == []
        assert journal.read_pending(3) == rows
        for text in (
            "",
            "{}",
            '{"step": 3, "metrics": 5}',
            '{"step": 3, "metrics": [{"loss": 1, "accuracy": []}]}',
            '{"step": 3, "metrics": [{"accuracy": 1}]}',
            '{"step": 3, "metrics": [{"loss": 1, "accuracy": NaN}]}',
        ):
            (tmp_path / "pending.json").write_text(text)
            with refused(r"pending\.json .* damaged: delete it"):
                journal.read_pending(3)
        journal.clear_pending()
        assert journal.read_pending(3) == []
