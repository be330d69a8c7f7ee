"""Compare training on eight devices with training on one."""

import json
import socket

import jax
import numpy as np
import pytest
from many_devices import run_on_devices, start_on_devices
from mesh_training import losses, wide_config
from session import refused

from jaxflow import models
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
        said = run_on_devices(8, "mesh_training.py", corpus, folder)
        loop.train(config, folder / "cut")  # what eight devices have begun, each with its part
    return folder, said


def results(run):
    """Losses and gradient norms [steps, 2], probabilities of some sentences, accuracies."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = np.array([(e["loss"], e["gradient_norm"]) for e in lines if "loss" in e])
    tokens = np.random.default_rng(0).integers(3, 40, (8, 12)).astype(np.int32)
    tokens[:, 0] = 1
    return curve, models.load(run).probabilities(tokens), (run / "accuracy.json").read_text()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["eight", "split", "one", "cut"])
def test_curve_and_model_are_those_of_one_device(runs, name):
    expected, found = (results(runs[0] / run) for run in ("alone", name))
    assert len(expected[0]) == STEPS
    assert np.ptp(expected[0][:, 0]) > 0.05  # far above the tolerance: a lost row would be seen
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-5)
    assert found[2] == expected[2]


@pytest.mark.nightly
def test_flow_in_the_loss_is_the_same(runs):
    expected = np.array(losses(layout_of(1), 0.5))
    assert len(expected) == 41
    assert (expected[1:-1:2] > 0).all()
    np.testing.assert_allclose(runs[1]["flow"], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.nightly
def test_a_batch_that_does_not_divide_is_refused(runs):
    assert runs[1]["refused"] == (
        "batch must be a multiple of the 3 devices (3, 6, 9, ...), got 32: choose such a batch, or "
        "fewer devices"
    )
    assert not runs[1]["three"]


def test_every_device_has_its_part_of_the_same_steps(corpus):
    said = run_on_devices(8, "mesh_training.py", corpus)
    assert said["devices"] == 8
    assert said["rows"] == [2, 3]  # of 16 rows
    assert said["whole"] == {"kernel": [0, 8], "moments": [0, 8]}
    split, on = said["split"]["kernel"]
    assert split >= 2  # the two matrices of the feed-forward layer, 32 x 128, at least
    assert on == 8
    assert said["split"]["moments"][0] >= 2 * split  # both moments of each
    expected = losses(layout_of(1), 0.0, 4)
    assert np.ptp(expected[:-1]) > 0.001
    np.testing.assert_allclose(said["losses"], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((128, 512), 1),
        ((512, 128), 0),
        ((512, 512), 0),
        ((30_522, 768), 1),  # the larger one does not divide
        ((30_522, 767), None),
        ((8, 8), None),  # small
        ((65_536,), None),
    ],
)
def test_what_is_split_and_what_is_not(shape, axis):
    assert fsdp_axis(shape, 8) == axis
    assert fsdp_axis(shape, 1) is None


def test_one_device_leaves_arrays_and_functions_alone():
    layout = layout_of(1)
    state = {"kernel": jax.numpy.ones((128, 128))}
    for call in (layout.put_state, layout.whole, layout.own, layout.on_host, layout.step):
        assert call(state) is state
    assert layout.put_filled(state) == state
    assert layout.rows(8) == slice(0, 8)
    for devices in (0, 2, -1):
        with refused(f"from 1 to the 1 that JAX sees, got {devices}"):
            layout_of(devices)


@pytest.mark.nightly
def test_two_processes_with_two_devices_train_as_one_does():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = [start_on_devices(2, "mesh_training.py", coordinator, 2, k) for k in range(2)]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, 0], ended
    together = [json.loads(out.splitlines()[-1]) for out, *_ in ended]
    expected = losses(layout_of(1), 0.0)
    assert len(expected) == 21
    for process, said in enumerate(together):
        assert said["process"] == [process, 2]
        assert (said["devices"], said["own"]) == ([2, 4], 2)
        assert said["rows"] == [[8 * process, 8 * process + 8], [0, 16]]
        assert said["put"] == list(range(16))
        assert said["filled"] == [0, 1, 2, 3, 4, 4, 4, 4]  # for four devices
        for name in ("whole", "split"):
            assert said[name] == together[0][name]
            np.testing.assert_allclose(said[name], expected, rtol=1e-6, atol=1e-5)


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
    with refused(message):
        join(**options)
    # Processes that need not know of each other.
    assert join() == ALONE == Processes(0, 1)
    assert join(processes=4, process=3) == Processes(3, 4)
