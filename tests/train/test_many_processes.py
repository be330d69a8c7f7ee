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
from small_corpus import small_config
from small_runs import assert_ends_like, journal_of

from jaxflow import models
from jaxflow.train.config import TrainConfig
from jaxflow.train.lock import hold
from jaxflow.train.loop import train


def whole(count, run, data, *options):
    ended = end(start(count, run, data, *options))
    assert ended.codes == [0] * count, ended
    return ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus):
    """The run of `many_processes.start` in this process."""
    run = tmp_path_factory.mktemp("many") / "alone"
    options = {"width": 32, "checkpoint_every": 3, "buckets": TrainConfig.buckets}
    train(small_config(corpus, **options), run)
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory, corpus):
    """A run of two processes that nothing disturbed."""
    run = tmp_path_factory.mktemp("many") / "two"
    return run, whole(2, run, corpus, "--shard-params")


@pytest.fixture
def begun(tmp_path, corpus):
    """A run of two processes that has written its second checkpoint, and the processes."""
    started = start(2, tmp_path / "run", corpus, "--shard-params")
    wait_for(tmp_path / "run/checkpoints/6/sha256", started)
    return tmp_path / "run", started


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
    steps, losses = (
        [[line[name] for line in journal_of(place) if name in line] for place in (run, other)]
        for name in ("step", "loss")
    )
    assert steps[0] == steps[1]
    assert len(losses[0]) == 12
    assert np.ptp(losses[1]) > 0.01  # far above the tolerance: a lost row would be seen
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
    left, right = parameters(run), parameters(other)
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_allclose(values, right[name], rtol=0, atol=1e-5, err_msg=name)
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


@pytest.mark.nightly
@pytest.mark.parametrize("process", [0, 1])
def test_of_a_killed_process_all_end_and_go_on_together(begun, two, corpus, process):
    run, started = begun
    started[process].kill()
    ended = end(started)
    assert ended.codes[process] == -signal.SIGKILL
    assert not (run / "model").exists()
    if process == 1:
        assert ended.codes[0] == 2, ended
        said = "jaxflow: error: another process of the run has ended ("
        assert ended.last_lines()[0].startswith(said)
    else:
        # Without the first, which the others were joined by, JAX itself may end them, by SIGABRT.
        assert ended.codes[1] in (2, -signal.SIGABRT), ended
        again = whole(2, run, corpus, "--shard-params")  # the first may have been writing
        assert "going on after step" in again.err[0]
        assert_ends_like(run, two[0])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "process", "count"), [(signal.SIGTERM, 1, 2), (signal.SIGINT, 0, 1)]
)
def test_a_signal_to_one_stops_all_after_one_step(
    begun, alone, two, corpus, number, process, count
):
    """And as many go on from there, or another number."""
    run, started = begun
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


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("in use", "run is in use by process "),
        ("full disk", "metrics.jsonl cannot be written: No space left"),
        ("diverges", ": training stopped, the last good checkpoint is kept; try a lower"),
        ("options", "process 1: weight_decay is 0.5, and 0.05 in process 0: give all processes of"),
        ("corpus", "the corpus must be the same in every process, that of process 1 is another"),
    ],
)
def test_what_ends_one_ends_all_with_the_same_sentence(tmp_path, corpus, case, said):
    run, options, of_second = tmp_path / "run", [], []
    if case == "full disk":
        run.mkdir()
        (run / "metrics.jsonl").symlink_to("/dev/full")
    elif case == "diverges":
        options = ["--learning-rate", 1e30]
    elif case == "options":
        of_second = ["--weight-decay", 0.5]
    elif case == "corpus":
        of_second = ["--data", shutil.copytree(corpus, tmp_path / "other")]
        lines = (corpus / "numpred.train").read_text().splitlines(keepends=True)
        (tmp_path / "other/numpred.train").write_text("".join(lines[::-1]))

    def ended():
        return end(start(2, run, corpus, *options, each=lambda process: of_second * process))

    if case == "in use":
        with hold(run):
            found = ended()
    else:
        found = ended()
    assert found.codes == [2, 2], found
    first, second = found.last_lines()
    assert said in first == second
    assert found.err[1].splitlines() == [second]
    assert not (run / "model").exists()
    if case in ("options", "corpus"):
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


def run_tasks(devices, *settings):
    """Run a task of a batch system with each of the settings; return how they ended."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(SUPPORT / "cluster_member.py")]
    told = [environment(devices) | {k: str(v) for k, v in given.items()} for given in settings]
    return end([subprocess.Popen(command, env=each, **pipes) for each in told])


@pytest.mark.nightly
@pytest.mark.parametrize("system", [slurm, open_mpi])
@pytest.mark.parametrize("processes", [2, 4])
def test_tasks_find_each_other(system, processes):
    ended = run_tasks(2, *(system(process, processes) for process in range(processes)))
    assert ended.codes == [0] * processes, ended
    # Two devices of each process hold 1, 10, 100, ...
    total = 2 * sum(10**process for process in range(processes))
    said = [json.loads(out.splitlines()[-1]) for out in ended.out]
    assert said == [[process, processes, total] for process in range(processes)]


@pytest.mark.nightly
def test_where_there_is_no_batch_system_one_line_says_so():
    ended = run_tasks(1, {})
    assert (ended.codes, ended.out) == ([2], [""])
    (line,) = [x for x in ended.err[0].splitlines() if x.startswith("jaxflow: error: ")]
    assert "the other processes cannot be joined" in line
    assert "name one of them with coordinator, processes and process" in line
