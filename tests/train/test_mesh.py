"""Compare training on eight devices with training on one."""

import json
import socket

import jax
import numpy as np
import pytest
from many_devices import run_on_devices, start_on_devices
from mesh_training import losses, wide_config

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.train import loop
from jaxflow.train.distributed import ALONE, Processes, join
from jaxflow.train.mesh import fsdp_axis, layout_of

STEPS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus):
    """A folder of runs, and what the process with eight devices said."""
    folder = tmp_path_factory.mktemp("mesh")
    config = wide_config(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        loop.train(config, folder / "alone")
        loop.train(config, folder / "one", stop_after=14)
        said = run_on_devices(8, "mesh_training.py", folder, corpus)
        loop.train(config, folder / "cut")  # what eight devices have begun, each with its part
    return folder, said


def curve(run):
    """Loss and gradient norm of every step, float64 [steps, 2]."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([(e["loss"], e["gradient_norm"]) for e in entries if "loss" in e])


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["eight", "split", "one", "cut"])
def test_the_curve_is_that_of_one_device(runs, name):
    folder, _ = runs
    expected = curve(folder / "alone")
    assert len(expected) == STEPS
    assert np.ptp(expected[:, 0]) > 0.05  # far above the tolerance: a lost row would be seen
    np.testing.assert_allclose(curve(folder / name), expected, rtol=0, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["eight", "split", "one", "cut"])
def test_the_models_are_the_same(runs, name):
    folder, _ = runs
    expected, found = (models.load(folder / run) for run in ("alone", name))
    tokens = np.random.default_rng(0).integers(3, 40, (8, 12)).astype(np.int32)
    tokens[:, 0] = 1
    np.testing.assert_allclose(
        found.probabilities(tokens), expected.probabilities(tokens), rtol=0, atol=1e-5
    )
    accuracy = [json.loads((folder / run / "accuracy.json").read_text()) for run in ("alone", name)]
    assert accuracy[0] == accuracy[1]


@pytest.mark.nightly
def test_flow_in_the_loss_is_the_same(runs):
    _, said = runs
    expected = np.array(losses(layout_of(1), 0.5))
    assert len(expected) == 41
    assert (expected[1:-1:2] > 0).all()
    np.testing.assert_allclose(said["flow"], expected, rtol=1e-6, atol=1e-5)


def test_every_device_has_its_part(runs):
    _, said = runs
    assert said["devices"] == 8
    assert said["rows"] == [2, 3]  # of 16 rows
    assert said["whole"] == {"kernel": [0, 8], "moments": [0, 8]}
    split, on = said["split"]["kernel"]
    assert split >= 2  # the two matrices of the feed-forward layer, 32 x 128, at least
    assert on == 8
    assert said["split"]["moments"][0] >= 2 * split  # both moments of each


@pytest.mark.nightly
def test_a_batch_that_does_not_divide_is_refused_before_anything_is_made(runs):
    _, said = runs
    assert said["refused"] == (
        "batch must be a multiple of the 3 devices (3, 6, 9, ...), got 32: choose such a batch, or "
        "fewer devices"
    )
    assert not said["three"]


def test_what_is_split_and_what_is_not():
    assert fsdp_axis((128, 512), 8) == 1
    assert fsdp_axis((512, 128), 8) == 0
    assert fsdp_axis((512, 512), 8) == 0
    assert fsdp_axis((30_522, 768), 8) == 1  # the larger one does not divide
    assert fsdp_axis((30_522, 767), 8) is None
    assert fsdp_axis((8, 8), 8) is None  # small
    assert fsdp_axis((65_536,), 8) is None  # a vector
    assert fsdp_axis((512, 512), 1) is None


def test_one_device_leaves_arrays_and_functions_alone():
    layout = layout_of(1)
    state = {"kernel": jax.numpy.ones((128, 128))}
    assert layout.put_state(state) is layout.whole(state) is state
    assert layout.put_filled(state) == state
    assert layout.own(state) is layout.on_host(state) is state
    assert layout.rows(8) == slice(0, 8)
    assert layout.step(test_what_is_split_and_what_is_not) is test_what_is_split_and_what_is_not


@pytest.mark.parametrize("devices", [0, 2, -1])
def test_devices_that_are_not_there_are_refused(devices):
    with pytest.raises(InputError, match=f"from 1 to the 1 that JAX sees, got {devices}"):
        layout_of(devices)


@pytest.fixture(scope="module")
def together():
    """The output of two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = [start_on_devices(2, "mesh_processes.py", coordinator, 2, k) for k in range(2)]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, 0], ended
    return [json.loads(out.splitlines()[-1]) for out, *_ in ended]


@pytest.mark.nightly
def test_two_processes_see_all_devices(together):
    assert [said["process"] for said in together] == [[0, 2], [1, 2]]
    assert [said["devices"] for said in together] == [[2, 4], [2, 4]]
    assert [said["own"] for said in together] == [2, 2]


@pytest.mark.nightly
def test_each_gives_its_rows_and_all_have_the_batch(together):
    assert [said["rows"] for said in together] == [[[0, 8], [0, 16]], [[8, 16], [0, 16]]]
    for said in together:
        assert said["put"] == list(range(16))
        assert said["filled"] == [0, 1, 2, 3, 4, 4, 4, 4]  # for four devices


@pytest.mark.nightly
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
