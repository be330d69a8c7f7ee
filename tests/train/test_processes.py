"""Processes that find each other, and train as one would."""

import json
import socket

import numpy as np
import pytest
from many_devices import start_on_devices
from mesh_training import losses

from jaxflow.errors import InputError
from jaxflow.train.distributed import ALONE, Processes, join
from jaxflow.train.mesh import layout_of


@pytest.fixture(scope="module")
def together():
    """What two processes with two devices each say."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = [start_on_devices(2, "mesh_processes.py", coordinator, 2, k) for k in range(2)]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, 0], ended
    return [json.loads(out.splitlines()[-1]) for out, *_ in ended]


def test_two_processes_see_all_devices(together):
    assert [said["process"] for said in together] == [[0, 2], [1, 2]]
    assert [said["devices"] for said in together] == [[2, 4], [2, 4]]
    assert [said["own"] for said in together] == [2, 2]


def test_each_gives_its_rows_and_all_have_the_batch(together):
    assert [said["rows"] for said in together] == [[[0, 8], [0, 16]], [[8, 16], [0, 16]]]
    for said in together:
        assert said["put"] == list(range(16))
        assert said["filled"] == [0, 1, 2, 3, 4, 4, 4, 4]  # for four devices


@pytest.mark.parametrize("name", ["whole", "split"])
def test_two_processes_train_as_one_does(together, name):
    expected = losses(layout_of(1), 0.0)
    assert len(expected) == 21
    assert together[0][name] == together[1][name]
    np.testing.assert_allclose(together[0][name], expected, rtol=1e-6, atol=1e-5)


def test_processes_that_need_not_know_of_each_other():
    assert join() == ALONE == Processes(0, 1)
    assert join(processes=4, process=3) == Processes(3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2}, "processes and process must be given together"),
        ({"process": 0}, "processes and process must be given together"),
        ({"processes": 2, "process": 2}, "process must be from 0 to 1"),
        ({"processes": 2, "process": -1}, "process must be from 0 to 1"),
        ({"coordinator": "localhost:1"}, "coordinator needs processes and process"),
        ({"cluster": True, "coordinator": "localhost:1"}, "cluster must be given alone"),
        ({"cluster": True, "processes": 2, "process": 0}, "cluster must be given alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        join(**options)
