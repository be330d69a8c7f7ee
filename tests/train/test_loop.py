"""Runs that are cut off, damaged, repeated or diverge: none ends as anything but a whole run."""

import contextlib
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
from small_corpus import small_config, write_small_corpus

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.stopping import Stopped
from jaxflow.train import loop
from jaxflow.train.checkpoint import open_checkpoints
from jaxflow.train.config import TrainConfig
from jaxflow.train.journal import open_journal, read_config
from jaxflow.train.loop import train
from jaxflow.train.step import TrainState, make_optimizer

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


def no_training(*_):
    raise AssertionError("a step was taken")


def steps_kept(run):
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir())


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
from jaxflow.train.journal import read_config
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
    assert_equal_trees(models.load(run).params, whole[1].model.params)


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


def test_metrics_put_off_for_another_step_are_left_alone(tmp_path):
    journal = open_journal(tmp_path, 0)
    rows = [{"loss": 0.1 + 0.2, "accuracy": 1.0}]
    names = ["accuracy", "loss"]
    journal.put_off(3, rows)
    assert journal.taken_up(4, names) == []
    assert journal.taken_up(3, names) == rows
    for text in (
        "",
        "[]",
        "{}",
        '{"step": 3, "metrics": 5}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": []}]}',
        '{"step": 3, "metrics": [{"loss": 1}]}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": NaN}]}',
    ):
        (tmp_path / "pending.json").write_text(text)
        with pytest.raises(InputError, match=r"pending\.json .* damaged: delete it"):
            journal.taken_up(3, names)
    journal.told()
    assert journal.taken_up(3, names) == []
    journal.told()
    journal.close()


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


def test_a_disk_that_is_full_for_the_journal(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal = open_journal(tmp_path, 0)
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be written: No space left"):
        journal.write(1, loss=1.0)
    journal.close()


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


def state_of(step, shape=(40, 30), seed=0):
    """A state as training has it, small enough to be saved and damaged many times."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    params = {"params": {"kernel": jnp.asarray(values), "bias": jnp.arange(3.0)}}
    count = jnp.asarray(step, jnp.int32)
    return TrainState(count, params, (jax.tree.map(lambda leaf: leaf * 2, params), count))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "checkpoints"
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(state_of(5))
        checkpoints.save(state_of(9, seed=1))
    return folder


def restore(folder, like):
    with open_checkpoints(folder) as checkpoints:
        return checkpoints.restore(like)


def test_a_checkpoint_gives_back_the_very_state(saved):
    assert_equal_trees(restore(saved, state_of(0, seed=3)), state_of(9, seed=1))


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path / "checkpoints", state_of(0)) is None


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "flipped": lambda file: file.write_bytes(
        bytes(byte ^ 255 if i % 64 == 40 else byte for i, byte in enumerate(file.read_bytes()))
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, saved, damage, capfd):
    """Whichever of its files is damaged."""
    names = [file.relative_to(saved) for file in (saved / "9").rglob("*") if file.is_file()]
    assert len(names) > 5
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(saved, folder)
        before = (folder / name).read_bytes()
        DAMAGES[damage](folder / name)
        if (folder / name).exists() and (folder / name).read_bytes() == before:
            continue
        assert_equal_trees(restore(folder, state_of(0)), state_of(5))
        said = capfd.readouterr().err
        if name.name == "sha256" and damage == "missing":
            assert (
                said
                == f"{folder / '9'} was cut off before its checksum was written and is not used\n"
            )
        else:
            aside = folder.with_name("checkpoints-damaged") / "9"
            assert said == (
                f"the checkpoint {folder / '9'} is damaged: moved to {aside}, going on from the "
                "one before\n"
            )
            assert aside.is_dir()
        # It is not met again, and its step can be kept anew.
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(state_of(9, seed=2))
        assert_equal_trees(restore(folder, state_of(0)), state_of(9, seed=2))
    assert capfd.readouterr() == ("", "")


def test_only_where_no_checkpoint_is_whole_the_run_is_refused(tmp_path, saved):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in ("5", "9"):
        DAMAGES["truncated"](folder / step / "_CHECKPOINT_METADATA")
    there = sorted(folder.rglob("*"))
    for _ in range(2):  # and nothing is moved, or the second try would begin from the beginning
        with pytest.raises(InputError, match=r"no checkpoint in .* is whole \(9, 5 are damaged\)"):
            restore(folder, state_of(0))
        assert sorted(folder.rglob("*")) == there


def test_the_same_step_damaged_twice_is_kept_twice(tmp_path, saved, capfd):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for _ in range(2):
        DAMAGES["truncated"](folder / "9" / "_CHECKPOINT_METADATA")
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(state_of(9, seed=1))
    assert {path.name for path in (tmp_path / "checkpoints-damaged").iterdir()} == {"9", "9-2"}
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_checksums_that_lie_together_are_read(tmp_path, saved):
    """Where they lay before they lay with the checkpoints."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    together = {step: (folder / step / "sha256").read_text() for step in ("5", "9")}
    for step in together:
        (folder / step / "sha256").unlink()
    (tmp_path / "checkpoints.json").write_text(json.dumps(together))
    assert_equal_trees(restore(folder, state_of(0)), state_of(9, seed=1))
    (tmp_path / "checkpoints.json").write_text("{")
    with pytest.raises(InputError, match=r"checksums .* cannot be read"):
        restore(folder, state_of(0))


def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(tmp_path):
    state = state_of(4)
    broken = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(broken)
    with pytest.raises(InputError, match="must hold finite numbers"):
        restore(tmp_path / "checkpoints", state_of(0))


def test_the_journal_goes_on_from_a_step(tmp_path):
    journal = open_journal(tmp_path, 0)
    for step in range(1, 6):
        journal.write(step, loss=1 / step, seconds=step * 2.0)
    journal.close()
    journal = open_journal(tmp_path, 3)
    assert journal.seconds_before == 6.0
    journal.write(4, loss=0.5, seconds=9.0)
    journal.close()
    assert [entry["step"] for entry in journal_of(tmp_path)] == [1, 2, 3, 4]
    assert journal_of(tmp_path)[-1]["loss"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_configuration_survives_its_file(data):
    config = small_config(data, learning_rate=0.1 + 0.2)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict({}) == TrainConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch", -1), ("positions", 0), ("dropout", 1.0), ("word_dropout", -0.1),
        ("attractor_share", 1.0), ("warmup", 1.5), ("learning_rate", 0.0), ("clip", 0.0),
        ("seed", -1), ("checkpoint_every", 0), ("learning_rate", float("nan")),
        ("weight_decay", -0.1), ("buckets", (0, 8)),
    ],
)  # fmt: skip
def test_impossible_values_are_named(name, value):
    with pytest.raises(InputError, match=name):
        TrainConfig(**{name: value})
