"""Tasks of batch systems find each other by what these put into the environment."""

import json
import os
import random
import subprocess
import sys

import pytest
from many_devices import SUPPORT, environment

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


def start(devices, told):
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "cluster_member.py")],
        env=environment(devices) | {name: str(value) for name, value in told.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("system", [slurm, open_mpi])
@pytest.mark.parametrize("processes", [2, 4])
def test_tasks_find_each_other(system, processes):
    started = [start(2, system(process, processes)) for process in range(processes)]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0] * processes, ended
    said = [json.loads(out.splitlines()[-1]) for out, *_ in ended]
    # Two devices of each process hold 1, 10, 100, ...
    total = 2 * sum(10**process for process in range(processes))
    assert said == [[process, processes, total] for process in range(processes)]


def test_where_there_is_no_batch_system_one_line_says_so():
    process = start(1, {})
    out, complaint = process.communicate()
    assert (process.returncode, out) == (2, "")
    (line,) = [line for line in complaint.splitlines() if line.startswith("jaxflow: error: ")]
    assert "the other processes cannot be joined" in line
    assert "name one of them with coordinator, processes and process" in line
