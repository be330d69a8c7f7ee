"""``jaxflow train`` in several processes: the run of one, and all end together however it ends."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest
from many_processes import end, start, wait_for
from small_corpus import write_small_corpus
from small_runs import journal_of

from jaxflow import models
from jaxflow.commands import main
from jaxflow.train.lock import hold


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "many-cache"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("many-corpus") / "agreement")


def whole(count, run, data, *options, **more):
    ended = end(start(count, run, data, *options, **more))
    assert ended.codes == [0] * count, ended
    return ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    run = tmp_path_factory.mktemp("many") / "alone"
    whole(1, run, data)
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory, data):
    """A run of two processes that nothing disturbed."""
    run = tmp_path_factory.mktemp("many") / "two"
    ended = whole(2, run, data)
    return run, ended


def parameters(run):
    """A run's parameters by name, but for the keys' biases.

    A softmax does not change when all scores of a query do: these have no gradient, and what
    rounding makes of it Adam scales to whole steps.
    """
    leaves = jax.tree_util.tree_leaves_with_path(models.load(run).params)
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    bias = found.pop("['params']['blocks_0']['qkv']['bias']")
    queries, _, values = np.split(bias, 3)
    return {**found, "queries": queries, "values": values}


def assert_close(run, other):
    """The same run to 1e-5, by whomever it was made."""
    found, expected = journal_of(run), journal_of(other)
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    losses = [np.array([e["loss"] for e in lines if "loss" in e]) for lines in (found, expected)]
    assert len(losses[0]) == 12
    assert np.ptp(losses[1]) > 0.01  # far above the tolerance: a lost row would be seen
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)
    left, right = (parameters(folder) for folder in (run, other))
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_allclose(values, right[name], rtol=0, atol=1e-5, err_msg=name)
    accuracy = [json.loads((folder / "accuracy.json").read_text()) for folder in (run, other)]
    assert accuracy[0] == accuracy[1]


def assert_equal(run, other):
    """The same run to the bit."""
    assert journal_of(run) == journal_of(other)
    left, right = (jax.tree.leaves(models.load(folder).params) for folder in (run, other))
    for one, another in zip(left, right, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(another))
    assert (run / "accuracy.json").read_bytes() == (other / "accuracy.json").read_bytes()


def test_two_processes_make_the_run_of_one(alone, two):
    run, ended = two
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert_close(run, alone)
    # The first shows progress and results; the other has nothing to add.
    assert "model in" in ended.out[0]
    assert "accuracy" not in ended.out[1]
    assert ended.err[0].count("training ") > 3
    assert ended.err[1] == ""


@pytest.mark.parametrize(("count", "devices", "options"), [(4, 1, ()), (2, 2, ("--shard-params",))])
def test_more_processes_or_devices_make_the_run_of_one(
    tmp_path, alone, data, count, devices, options
):
    whole(count, tmp_path / "run", data, *options, devices=devices)
    assert_close(tmp_path / "run", alone)


@pytest.mark.parametrize("process", [0, 1])
def test_of_a_killed_process_all_end_and_go_on_together(tmp_path, two, data, process):
    run = tmp_path / "run"
    started = start(2, run, data)
    wait_for(run / "checkpoints" / "6" / "sha256", started)
    started[process].kill()
    ended = end(started)
    assert ended.codes[process] == -signal.SIGKILL
    # Without the first, which the others were joined by, JAX itself may end them, by SIGABRT.
    assert ended.codes[1 - process] in ((2, -signal.SIGABRT) if process == 0 else (2,)), ended
    if process == 1:
        assert ended.said()[0].startswith("jaxflow: error: another process of the run has ended (")
    assert not (run / "model").exists()
    if process == 0:  # which may have been writing
        again = whole(2, run, data)
        assert "going on after step" in again.err[0]
        assert_equal(run, two[0])


@pytest.mark.parametrize(
    ("number", "process", "count"), [(signal.SIGTERM, 1, 2), (signal.SIGINT, 0, 1)]
)
def test_a_signal_to_one_stops_all_behind_one_step(
    tmp_path, alone, two, data, number, process, count
):
    """And as many go on from there, or another number."""
    run = tmp_path / "run"
    started = start(2, run, data)
    wait_for(run / "checkpoints" / "6" / "sha256", started)
    started[process].send_signal(number)
    ended = end(started)
    assert ended.codes == [128 + number] * 2, ended
    kept = max(int(place.name) for place in (run / "checkpoints").iterdir())
    assert 6 <= kept < 30
    stopped = f"jaxflow: stopped by {number.name} after step {kept}, whose checkpoint is written"
    assert ended.said() == [f"{stopped}; the same command goes on from there"] * 2
    assert not (run / "model").exists()
    whole(count, run, data)
    if count == 2:
        assert_equal(run, two[0])
    else:
        assert_close(run, alone)


def assert_refused(ended, said):
    """All end with status 2 and the same sentence, which for the second is all."""
    assert ended.codes == [2] * len(ended.codes), ended
    assert said in ended.said()[0]
    assert set(ended.said()) == {ended.said()[0]}
    assert all(len(text.splitlines()) == 1 for text in ended.err[1:]), ended


def test_a_folder_in_use_refuses_all(tmp_path, data):
    with hold(tmp_path / "run"):
        assert_refused(end(start(2, tmp_path / "run", data)), "run is in use by process ")


def test_a_disk_that_is_full_for_the_first_ends_all(tmp_path, data):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    assert_refused(end(start(2, tmp_path, data)), "metrics.jsonl cannot be written: No space left")


def test_a_run_that_diverges_ends_for_all_with_the_step_named(tmp_path, data):
    ended = end(start(2, tmp_path / "run", data, "--learning-rate", 1e30))
    assert_refused(ended, ": training stopped, the last good checkpoint is kept; try a lower")
    assert not (tmp_path / "run" / "model").exists()


def test_processes_that_do_not_train_the_same_are_refused(tmp_path, data):
    run = tmp_path / "run"

    def longer(process):
        return ("--weight-decay", 0.5) if process else ()

    assert_refused(
        end(start(2, run, data, each=longer)),
        "process 1: weight_decay is 0.5, and 0.05 in process 0: give all processes of a run the "
        "same options",
    )
    other = tmp_path / "other"
    shutil.copytree(data, other)
    lines = (other / "numpred.train").read_text().splitlines(keepends=True)
    (other / "numpred.train").write_text("".join(lines[::-1]))

    def elsewhere(process):
        return ("--data", other) if process else ()

    assert_refused(
        end(start(2, run, data, each=elsewhere)),
        "the corpus must be the same in every process, that of process 1 is another than that of "
        "process 0: give all the same one",
    )
    assert not run.exists()


def test_processes_that_do_not_know_of_each_other_train_nothing_together(tmp_path, capfd):
    run = str(tmp_path / "run")
    assert main(["train", "--out", run, "--processes", "2", "--process", "0"]) == 2
    assert capfd.readouterr().err == (
        "jaxflow: error: processes that train one model must find each other: add --coordinator "
        "HOST:PORT, or use --cluster instead\n"
    )
