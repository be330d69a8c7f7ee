"""Test ``jaxflow train`` in several processes: the result of one, and a common end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from many_devices import SUPPORT, environment
from many_processes import end, start, wait_for
from small_runs import assert_ends_like, journal_of

from jaxflow import models
from jaxflow.train.lock import hold


def whole(count, run, data, *options, **more):
    ended = end(start(count, run, data, *options, **more))
    assert ended.codes == [0] * count, ended
    return ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus):
    run = tmp_path_factory.mktemp("many") / "alone"
    whole(1, run, corpus)
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory, corpus):
    """A run of two processes that nothing disturbed."""
    run = tmp_path_factory.mktemp("many") / "two"
    return run, whole(2, run, corpus, "--shard-params")


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


def test_two_processes_make_the_run_of_one(alone, two):
    run, ended = two
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert_close(run, alone)
    # The first shows progress and results; the other has nothing to add.
    assert "model in" in ended.out[0]
    assert "accuracy" not in ended.out[1]
    assert ended.err[0].count("training ") > 3
    assert ended.err[1] == ""


@pytest.mark.nightly
@pytest.mark.parametrize("process", [0, 1])
def test_of_a_killed_process_all_end_and_go_on_together(tmp_path, two, corpus, process):
    run = tmp_path / "run"
    started = start(2, run, corpus, "--shard-params")
    wait_for(run / "checkpoints" / "6" / "sha256", started)
    started[process].kill()
    ended = end(started)
    assert ended.codes[process] == -signal.SIGKILL
    # Without the first, which the others were joined by, JAX itself may end them, by SIGABRT.
    assert ended.codes[1 - process] in ((2, -signal.SIGABRT) if process == 0 else (2,)), ended
    if process == 1:
        assert ended.last_lines()[0].startswith(
            "jaxflow: error: another process of the run has ended ("
        )
    assert not (run / "model").exists()
    if process == 0:  # which may have been writing
        again = whole(2, run, corpus, "--shard-params")
        assert "going on after step" in again.err[0]
        assert_ends_like(run, two[0])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "process", "count"), [(signal.SIGTERM, 1, 2), (signal.SIGINT, 0, 1)]
)
def test_a_signal_to_one_stops_all_after_one_step(
    tmp_path, alone, two, corpus, number, process, count
):
    """And as many go on from there, or another number."""
    run = tmp_path / "run"
    started = start(2, run, corpus, "--shard-params")
    wait_for(run / "checkpoints" / "6" / "sha256", started)
    started[process].send_signal(number)
    ended = end(started)
    assert ended.codes == [128 + number] * 2, ended
    kept = max(int(place.name) for place in (run / "checkpoints").iterdir())
    assert 6 <= kept < 30
    stopped = f"jaxflow: stopped by {number.name} after step {kept}, whose checkpoint is written"
    assert ended.last_lines() == [f"{stopped}; the same command goes on from there"] * 2
    assert not (run / "model").exists()
    whole(count, run, corpus, "--shard-params" if count == 2 else "--devices=1")
    if count == 2:
        assert_ends_like(run, two[0])
    else:
        assert_close(run, alone)


def assert_refused(ended, said):
    """All end with status 2 and the same sentence, which for the second is all."""
    assert ended.codes == [2] * len(ended.codes), ended
    assert said in ended.last_lines()[0]
    assert set(ended.last_lines()) == {ended.last_lines()[0]}
    assert all(len(text.splitlines()) == 1 for text in ended.err[1:]), ended


@pytest.mark.nightly
def test_a_folder_in_use_refuses_all(tmp_path, corpus):
    with hold(tmp_path / "run"):
        assert_refused(end(start(2, tmp_path / "run", corpus)), "run is in use by process ")


@pytest.mark.nightly
def test_a_disk_that_is_full_for_the_first_ends_all(tmp_path, corpus):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    assert_refused(
        end(start(2, tmp_path, corpus)), "metrics.jsonl cannot be written: No space left"
    )


@pytest.mark.nightly
def test_a_run_that_diverges_ends_for_all_with_the_step_named(tmp_path, corpus):
    ended = end(start(2, tmp_path / "run", corpus, "--learning-rate", 1e30))
    assert_refused(ended, ": training stopped, the last good checkpoint is kept; try a lower")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.nightly
def test_processes_that_do_not_train_the_same_are_refused(tmp_path, corpus):
    run = tmp_path / "run"

    def longer(process):
        return ("--weight-decay", 0.5) if process else ()

    assert_refused(
        end(start(2, run, corpus, each=longer)),
        "process 1: weight_decay is 0.5, and 0.05 in process 0: give all processes of a run the "
        "same options",
    )
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    lines = (other / "numpred.train").read_text().splitlines(keepends=True)
    (other / "numpred.train").write_text("".join(lines[::-1]))

    def elsewhere(process):
        return ("--corpus", other) if process else ()

    assert_refused(
        end(start(2, run, corpus, each=elsewhere)),
        "the corpus must be the same in every process, that of process 1 is another than that of "
        "process 0: give all the same one",
    )
    assert not run.exists()


# Both systems make a port of the job's number, one of the highest 4,096.
JOB = random.Random(os.getpid()).randrange(4096)


def slurm(process, processes):
    return {
        "SLURM_JOB_ID": JOB,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": 1,
        "SLURM_NTASKS": processes,
        "SLURM_PROCID": process,
        "SLURM_LOCALID": process,
    }


def open_mpi(process, processes):
    return {
        "OMPI_MCA_orte_hnp_uri": f"{(JOB ^ 2048) << 12}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": processes,
        "OMPI_COMM_WORLD_RANK": process,
        "OMPI_COMM_WORLD_LOCAL_RANK": process,
    }


def start_task(devices, told):
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "cluster_member.py")],
        env=environment(devices) | {name: str(value) for name, value in told.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.nightly
@pytest.mark.parametrize("system", [slurm, open_mpi])
@pytest.mark.parametrize("processes", [2, 4])
def test_tasks_find_each_other(system, processes):
    started = [start_task(2, system(process, processes)) for process in range(processes)]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0] * processes, ended
    said = [json.loads(out.splitlines()[-1]) for out, *_ in ended]
    # Two devices of each process hold 1, 10, 100, ...
    total = 2 * sum(10**process for process in range(processes))
    assert said == [[process, processes, total] for process in range(processes)]


@pytest.mark.nightly
def test_where_there_is_no_batch_system_one_line_says_so():
    process = start_task(1, {})
    out, complaint = process.communicate()
    assert (process.returncode, out) == (2, "")
    (line,) = [line for line in complaint.splitlines() if line.startswith("jaxflow: error: ")]
    assert "the other processes cannot be joined" in line
    assert "name one of them with coordinator, processes and process" in line
