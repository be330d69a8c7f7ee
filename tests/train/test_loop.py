"""Runs that are cut off, damaged or repeated: none ends as anything but a whole run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_corpus import small_config, write_small_corpus
from small_runs import (
    STEPS,
    assert_ends_like,
    assert_equal_trees,
    journal_of,
    steps_kept,
    surroundings,
)

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.train import loop
from jaxflow.train.loop import train
from jaxflow.train.run import read_config


@pytest.fixture(autouse=True)
def _surroundings(tmp_path_factory):
    with surroundings(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "agreement")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run that nothing disturbed: its folder and its result."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with surroundings(tmp_path_factory):
        return run, train(small_config(data), run)


def no_training(*_):
    raise AssertionError("a step was taken")


def test_a_whole_run_leaves_what_it_promises(whole, data):
    run, result = whole
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "model", "accuracy.json"
    }  # fmt: skip
    assert read_config(run) == small_config(data)
    assert steps_kept(run) == [28, 30]
    assert set(result.accuracy) == {"val", "test", "test_1", "test_2", "subjects"}
    assert json.loads((run / "accuracy.json").read_text()) == result.accuracy
    assert {name: score["n"] for name, score in result.accuracy.items()} == {
        "val": 30, "test": 60, "test_1": 20, "test_2": 20, "subjects": 20
    }  # fmt: skip
    assert result.seconds > 0

    journal = journal_of(run)
    losses = [entry for entry in journal if "loss" in entry]
    scores = [entry for entry in journal if "held_out" in entry]
    assert len(losses) + len(scores) == len(journal)
    assert [entry["step"] for entry in losses] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in scores] == [10, 20, 30]
    for entry in scores:
        assert set(entry["held_out"]) == {"val", "subjects"}  # never the test
    for name in ("val", "subjects"):
        assert scores[-1]["held_out"][name] == result.accuracy[name]["accuracy"]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_saved_model_is_the_trained_one(whole):
    run, result = whole
    loaded = models.load(run)
    assert loaded.config == result.model.config
    assert loaded.tokenizer == result.model.tokenizer
    assert_equal_trees(loaded.params, result.model.params)
    ids = loaded.tokenizer.encode_batch(["the key to the cabinets", "the keys"])
    assert_equal_trees(loaded(ids), result.model(ids))


@pytest.mark.parametrize("stop", [1, 7, 13, 29])
def test_a_run_cut_off_after_a_checkpoint_goes_on_bit_for_bit(tmp_path, data, whole, stop):
    config, run = small_config(data), tmp_path / "run"
    cut = train(config, run, stop_after=stop)
    assert cut.accuracy == {}
    assert not (run / "model").exists()
    assert steps_kept(run)[-1] == stop
    train(config, run)
    assert_ends_like(run, whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxflow.train import loop
from jaxflow.train.run import read_config
from jaxflow.train.config import TrainConfig
import json

def report(progress):
    if progress.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

loop.LOG_EVERY = 1
config = TrainConfig.from_dict(json.loads(sys.argv[1]))
loop.train(config, Path(sys.argv[2]), report)
"""


@pytest.mark.parametrize(("step", "kept"), [(12, [7, 10]), (3, [])])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, data, whole, step, kept):
    config, run = small_config(data), tmp_path / "run"
    script = [sys.executable, "-c", KILLED.format(step=step)]
    ended = subprocess.run(
        [*script, json.dumps(config.to_dict()), str(run)], env=os.environ, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert steps_kept(run) == kept
    assert [entry["step"] for entry in journal_of(run) if "loss" in entry][-1] == step
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # what a crash of the machine can leave
    said = []
    train(config, run, said.append)
    begun = f"going on after step {kept[-1]}" if kept else ""
    assert said[0].message == begun
    assert_ends_like(run, whole)


def test_a_half_written_checkpoint_is_not_taken(tmp_path, data, whole):
    config, run = small_config(data), tmp_path / "run"
    train(config, run, stop_after=7)
    # The name under which Orbax writes before it renames.
    half = run / "checkpoints" / "10.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "7", half)
    for file in half.rglob("manifest.ocdbt"):
        file.unlink()
    train(config, run)
    assert_ends_like(run, whole)


def test_a_finished_run_is_not_trained_again(tmp_path, data, whole, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    before = (run / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(loop, "make_train_step", lambda *_: no_training)
    result = train(small_config(data), run)
    assert result.accuracy == whole[1].accuracy
    assert (run / "metrics.jsonl").read_bytes() == before
    assert_ends_like(run, whole)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 2e-3), ("seed", 5), ("width", 32), ("buckets", (20,))]
)
def test_another_configuration_in_the_same_folder(whole, data, name, value):
    run, _ = whole
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"another configuration \\({name} is ") as caught:
        train(small_config(data, **{name: value}), run)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_same_folder_under_another_name_is_the_same_run(whole, data, monkeypatch):
    monkeypatch.setattr(loop, "make_train_step", lambda *_: no_training)
    monkeypatch.chdir(data.parent)
    assert train(small_config(Path(data.name)), whole[0]).accuracy == whole[1].accuracy


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"epoch": 3}', '{"epochs": "3"}', '{"buckets": ["x"]}', '{"epochs": 0}'],
)
def test_a_damaged_configuration(tmp_path, data, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"configuration|epochs must be") as caught:
        train(small_config(data), tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_impossible_sizes_leave_no_run_behind(tmp_path, data):
    with pytest.raises(InputError, match="width must be a multiple of heads"):
        train(small_config(data, width=15), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_folder_that_cannot_be_written(tmp_path, data, monkeypatch, place):
    (tmp_path / "file").write_text("here first")
    monkeypatch.setattr(loop, "make_train_step", no_training)
    with pytest.raises(InputError, match="cannot be written") as caught:
        train(small_config(data), tmp_path / place)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here first"


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_a_place_in_the_run_that_is_taken(tmp_path, data, name):
    config = small_config(data)
    train(config, tmp_path, stop_after=1)
    target = tmp_path / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.mkdir() if name == "metrics.jsonl" else target.write_text("")
    with pytest.raises(InputError, match=name) as caught:
        train(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_sentences_that_do_not_fit_are_reported(tmp_path, data):
    said = []
    config = small_config(data, positions=9, buckets=(), epochs=1, batch=16)
    result = train(config, tmp_path, said.append)
    texts = {
        name: [line.split("\t")[1].split() for line in (data / name).read_text().splitlines()]
        for name in ("numpred.train", "numpred.train.attractors", "numpred.test.1")
    }
    # With [CLS] in front a sentence of nine words needs ten positions.
    long = {name: sum(len(words) > 8 for words in rows) for name, rows in texts.items()}
    training = long["numpred.train"] + long["numpred.train.attractors"]
    assert training > 0
    assert said[0].message == (f"{training} training sentences exceed 9 tokens and are left out")
    assert result.accuracy["test_1"]["too_long"] == long["numpred.test.1"] > 0
    assert result.accuracy["test_1"]["n"] == 20
    assert result.accuracy["test_1"]["accuracy"] <= 1 - long["numpred.test.1"] / 20
