"""Training on eight devices against one: the same curve, whoever holds which part."""

import json

import jax
import numpy as np
import pytest
from many_devices import run_on_devices
from mesh_training import losses, wide_config
from small_corpus import write_small_corpus

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.train import loop
from jaxflow.train.mesh import fsdp_axis, layout_of

STEPS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs, and what the process with eight devices said."""
    folder = tmp_path_factory.mktemp("mesh")
    data = write_small_corpus(folder / "data")
    config = wide_config(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(loop, "LOG_EVERY", 1)
        loop.train(config, folder / "alone")
        loop.train(config, folder / "one", stop_after=14)
        said = run_on_devices(8, "mesh_training.py", folder, data)
        loop.train(config, folder / "cut")  # what eight devices have begun, each with its part
    return folder, said


def curve(run):
    """Loss and gradient norm of every step, float64 [steps, 2]."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([(e["loss"], e["gradient_norm"]) for e in entries if "loss" in e])


@pytest.mark.parametrize("name", ["eight", "split", "one", "cut"])
def test_the_curve_is_that_of_one_device(runs, name):
    folder, _ = runs
    expected = curve(folder / "alone")
    assert len(expected) == STEPS
    assert np.ptp(expected[:, 0]) > 0.05  # far above the tolerance: a lost row would be seen
    np.testing.assert_allclose(curve(folder / name), expected, rtol=0, atol=1e-5)


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
