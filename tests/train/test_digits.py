"""Training on digits: the data, the first parameters, the shifts, and a whole run."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxflow.models import init, load
from jaxflow.train.digits import DigitsConfig, digits_run, train_digits
from jaxflow.train.digits_data import Images, load_digits, normalised
from jaxflow.train.digits_step import _shifted, widened
from jaxflow.train.loop import Progress

datasets = pytest.importorskip("sklearn.datasets")

TINY = DigitsConfig(
    seed=3, epochs=12, layers=1, heads=2, width=32, learning_rate=4e-3, shift=0, dropout=0.0
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Progress]]:
    run = tmp_path_factory.mktemp("digits") / "run"
    reports: list[Progress] = []
    return run, digits_run(TINY, run, reports.append), reports


def test_splits_are_every_image_once() -> None:
    splits = load_digits()
    assert {name: len(images.labels) for name, images in splits.items()} == {
        "train": 1257,
        "val": 180,
        "test": 360,
    }
    rows = np.concatenate([images.rows for images in splits.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1797))
    raw = datasets.load_digits()
    for images in splits.values():
        np.testing.assert_array_equal(16 * images.grey[..., 0], raw.images[images.rows])
        np.testing.assert_array_equal(images.labels, raw.target[images.rows])
        assert len(np.unique(images.labels)) == 10
    np.testing.assert_array_equal(load_digits()["test"].rows, splits["test"].rows)


def test_images_are_taken_by_place() -> None:
    images = load_digits()["val"]
    some = images.at([4, 2])
    assert isinstance(some, Images)
    np.testing.assert_array_equal(some.rows, images.rows[[4, 2]])
    assert len(images.at(slice(3)).labels) == 3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"scikit-learn, which is not installed: pip install"):
        load_digits()


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    train = load_digits()["train"]
    sizes = TINY.model(float(train.grey.mean()), float(train.grey.std()))
    values = normalised(train.grey, sizes)
    assert values.mean() == pytest.approx(0, abs=1e-3)
    assert values.std() == pytest.approx(1, abs=1e-3)


def test_first_parameters_suit_a_small_model() -> None:
    inner = widened(init(DigitsConfig(width=128).model(), 0))["params"]
    assert np.std(inner["blocks_0"]["qkv"]["kernel"]) == pytest.approx(128**-0.5, rel=0.02)
    assert np.std(inner["blocks_0"]["up"]["kernel"]) == pytest.approx(128**-0.5, rel=0.02)
    assert np.std(inner["position"]) == pytest.approx(1, rel=0.05)
    np.testing.assert_array_equal(inner["norm"]["scale"], 1)


def test_shifts_move_the_whole_image() -> None:
    grey = np.random.default_rng(0).random((64, 8, 8, 1)).astype(np.float32)
    moved = np.asarray(_shifted(jax.random.key(0), grey, 1))
    seen = set()
    for before, after in zip(grey, moved, strict=True):
        wide = np.pad(before, ((1, 1), (1, 1), (0, 0)))
        (where,) = [
            (down, right)
            for down, right in np.ndindex(3, 3)
            if (wide[down : down + 8, right : right + 8] == after).all()
        ]
        seen.add(where)
    assert len(seen) == 9
    np.testing.assert_array_equal(_shifted(jax.random.key(0), grey, 0), grey)


def test_a_run_learns_and_reports(finished: tuple[Path, Any, list[Progress]]) -> None:
    _, result, reports = finished
    assert result.accuracy["val"]["n"] == 180
    assert result.accuracy["test"]["accuracy"] > 0.8
    assert [(report.step, report.steps) for report in reports] == [
        (19 * epoch, 228) for epoch in range(1, 13)
    ]
    assert reports[-1].loss < reports[0].loss / 3
    test = load_digits()["test"]
    predicted = np.asarray(
        result.model.probabilities(normalised(test.grey, result.model.config))
    ).argmax(-1)
    assert (predicted == test.labels).mean() == result.accuracy["test"]["accuracy"]


def test_the_same_configuration_gives_the_same_parameters() -> None:
    short = dataclasses.replace(TINY, epochs=2, batch=600, dropout=0.1, shift=1)
    first, second = (train_digits(short).model.params for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    kernels = [init(TINY.model(), seed)["params"]["readout"]["kernel"] for seed in (3, 4)]
    assert np.abs(np.subtract(*kernels)).max() > 1e-3


def test_a_finished_run_is_read_back(finished: tuple[Path, Any, list[Progress]]) -> None:
    run, result, _ = finished
    before = (run / "run.json").stat().st_mtime_ns
    reports: list[Progress] = []
    again = digits_run(TINY, run, reports.append)
    assert reports == []
    assert (run / "run.json").stat().st_mtime_ns == before
    assert again.accuracy == result.accuracy
    jax.tree.map(np.testing.assert_array_equal, again.model.params, result.model.params)
    assert again.model.config == result.model.config == load(run / "model").config


def test_another_configuration_is_refused(finished: tuple[Path, Any, list[Progress]]) -> None:
    with pytest.raises(ValueError, match=r"another configuration \(layers is 1, not 2\)"):
        digits_run(dataclasses.replace(TINY, layers=2), finished[0])


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"config": {}})])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        digits_run(TINY, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("patch", 3, "patch must be 1, 2 or 4"),
        ("shift", 8, "shift must be from 0 to 7"),
        ("shift", -1, "shift must be from 0 to 7"),
        ("epochs", 0, "epochs must be at least 1"),
        ("width", 30, "width must be a multiple of heads"),
        ("readout", "max", "readout must be cls or mean"),
        ("dropout", 1.0, "dropout must be in"),
    ],
)
def test_impossible_configurations_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsConfig(**{field: value})


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at most 1257 images, got 2000"):
        train_digits(dataclasses.replace(TINY, batch=2000))


def test_a_loss_that_is_no_number_stops_training() -> None:
    with pytest.raises(
        ValueError, match="the loss is nan at step 3: training stopped"
    ):  # the rate of step 1 is 0
        train_digits(dataclasses.replace(TINY, epochs=2, learning_rate=1e30, warmup=0.0))
