"""``jaxflow reproduce digits``: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from jaxflow.commands.digits import ReproduceDigits
from jaxflow.eval.digits import BASELINES, ROWS, TARGETS
from jaxflow.eval.digits_tables import PAIRS
from jaxflow.eval.explain.vision import VisionOptions, explain_image
from jaxflow.models import load

pytest.importorskip("sklearn")

FILES = {"tables.md", "tables.json", "config.json", "maps.npz", "overlays.png"}
FILES |= {"digit.png", "overlay.png"}
SAMPLES = 12


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    ReproduceDigits(out=folder, epochs=3, layers=2, samples=SAMPLES, seed=1).run()
    return folder


def test_files_are_written(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == FILES | {"run"}
    record = json.loads((out / "tables.json").read_text())
    assert set(record["tables"]) == set(TARGETS)
    for rows in record["tables"].values():
        assert list(rows) == [*ROWS, *BASELINES]
        for cells in rows.values():
            assert [cell["n"] + cell["nan"] for cell in cells] == [SAMPLES] * 2
    assert record["images"] == SAMPLES
    assert record["accuracy"]["test"]["n"] == 360
    assert record["config"]["train"]["layers"] == 2
    assert len(record["contrasts"]) == len(TARGETS) * len(PAIRS)
    config = json.loads((out / "config.json").read_text())
    assert config["config"] == record["config"]
    assert "scikit-learn" in config["versions"]


def test_tables_are_the_mean_of_the_maps_correlations(out: Path) -> None:
    maps = np.load(out / "maps.npz")
    record = json.loads((out / "tables.json").read_text())
    for target in TARGETS:
        for row in ("raw mean", "rollout min", "flow mean", "rollout mean, 0.9 discarded", "ink"):
            for layer in range(2):
                found = [
                    spearmanr(scores[layer], reference).statistic
                    for scores, reference in zip(
                        maps[f"maps/{row}"], maps[f"targets/{target}"], strict=True
                    )
                    if np.ptp(scores[layer]) > 0 and np.ptp(reference) > 0
                ]
                cell = record["tables"][target][row][layer]
                assert cell["n"] == len(found)
                # Maps are kept in float32, in which a few more scores are equal.
                if found:
                    assert cell["mean"] == pytest.approx(np.mean(found), abs=0.02)


def test_the_maps_are_those_of_the_picture_explained_alone(out: Path, tmp_path: Path) -> None:
    maps = np.load(out / "maps.npz")
    model = load(out / "run" / "model")
    grey = np.rint(maps["grey"][5, ..., 0] * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "digit.png")
    found = explain_image(
        model, tmp_path / "digit.png", VisionOptions(heads="min", ratio=0.5), occlusion="mean"
    )
    assert found.prediction == maps["predictions"][5]
    # The file has 8 bits, the data set 17 levels.
    np.testing.assert_allclose(
        found.scores["rollout"].ravel(),
        maps["maps/rollout min, 0.5 discarded"][5, -1],
        atol=5e-3,
    )
    np.testing.assert_allclose(
        found.scores["occlusion"].ravel(), maps["targets/occlusion"][5], atol=0.02
    )


def test_baselines_are_what_they_are_called(out: Path) -> None:
    maps = np.load(out / "maps.npz")
    for image in range(SAMPLES):
        ink = [
            maps["grey"][image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
            for row, column in np.ndindex(4, 4)
        ]
        np.testing.assert_allclose(maps["maps/ink"][image, 0], ink, atol=1e-6)
    middle = maps["maps/middle"][0, 0].reshape(4, 4)
    assert (middle[1:3, 1:3] == middle.max()).all()
    assert (middle[[0, 0, -1, -1], [0, -1, 0, -1]] == middle.min()).all()
    assert np.ptp(maps["maps/random"], axis=-1).min() > 0


def test_the_picture_can_be_read(out: Path) -> None:
    with Image.open(out / "overlays.png") as file:
        picture = np.asarray(file.convert("RGB"))
    assert picture.shape[1] > 700
    assert (picture.astype(int).max(-1) - picture.min(-1) > 60).mean() > 0.2  # coloured maps


def test_an_example_is_there_to_try(out: Path) -> None:
    maps = np.load(out / "maps.npz")
    with Image.open(out / "digit.png") as picture:
        digit = np.asarray(picture, np.float64)
    np.testing.assert_allclose(digit / 255, maps["grey"][0, ..., 0], atol=2e-3)
    with Image.open(out / "overlay.png") as picture:
        assert picture.size[0] > 1000


def test_a_finished_run_is_reused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (out / name).read_bytes() for name in FILES}
    model = (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    ReproduceDigits(out=out, epochs=3, layers=2, samples=SAMPLES, seed=1).run()
    assert (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns == model
    for name in ("tables.md", "tables.json", "config.json", "overlays.png"):
        assert (out / name).read_bytes() == before[name], name
    printed = capsys.readouterr().out
    assert "Occlusion by the image's mean grey" in printed
    assert "rollout mean, 0.9 discarded" in printed
    for name in FILES:
        assert f"wrote {out / name}" in printed


def test_the_markdown_has_every_row(out: Path) -> None:
    text = (out / "tables.md").read_text(encoding="utf-8")
    for title in TARGETS.values():
        assert f"## {title}" in text
    for row in (*ROWS, *BASELINES):
        assert text.count(f"| **{row}** |") == len(TARGETS)
    record = json.loads((out / "tables.json").read_text())
    assert f"accuracy, test: {record['accuracy']['test']['accuracy']:.4f} of 360" in text


@pytest.mark.parametrize("samples", [0, 361])
def test_impossible_samples_are_refused(samples: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples must be from 1 to the 360 test images"):
        ReproduceDigits(out=tmp_path / "new", samples=samples).run()
    assert list(tmp_path.iterdir()) == []


def test_another_run_in_the_folder_is_refused(out: Path) -> None:
    with pytest.raises(ValueError, match="another configuration"):
        ReproduceDigits(out=out, epochs=4, layers=2, samples=SAMPLES, seed=1).run()
