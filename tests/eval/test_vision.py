"""Maps of an image: against the definitions, and on a model of which the answer is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from attentions import attention_of
from PIL import Image
from rich.console import Console
from vision_models import bright_patch_model, bright_picture, random_model

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow.eval.explain.image_summary import as_image_json, print_image_explanation
from jaxflow.eval.explain.pixels import to_pixels
from jaxflow.eval.explain.vision import METHODS, VisionOptions, explain_image, patch_scores
from jaxflow.models import EncoderConfig, Model

PICTURE = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PICTURE).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.mark.parametrize("readout", ["cls", "mean"])
@pytest.mark.parametrize("heads", ["mean", "min", 1])
def test_scores_are_the_readouts_rows(readout: Any, heads: Any) -> None:
    attention = attention_of("dense", 5, (2, 3, 2, 4, 4))
    found = patch_scores(attention, VisionOptions(readout, heads, residual=0.3))
    assert set(found) == set(METHODS)
    queries = [0] if readout == "cls" else [1, 2, 3]
    for image, stack in enumerate(attention):
        edges = oracles.edge_weights(stack, 0.3, heads)
        expected = {
            "raw": oracles.raw_attention(stack, heads),
            "rollout": oracles.rollout(stack, 0.3, heads),
            "flow": np.array(
                [
                    [[flow_by_definition(edges, layer, i, j) for j in range(4)] for i in range(4)]
                    for layer in range(3)
                ]
            ),
        }
        for name, tokens in expected.items():
            rows = sum(tokens[:, query] for query in queries) / len(queries)
            np.testing.assert_allclose(found[name][image], rows, atol=1e-9)


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_discarding_goes_into_every_method(readout: Any) -> None:
    attention = attention_of("dense", 6, (1, 3, 2, 5, 5))
    found = patch_scores(attention, VisionOptions(readout, "max", ratio=0.4))
    edges = jaxflow.discard(attention, 0.4, heads="max")
    bare = jaxflow.discard(attention, 0.4, heads="max", residual=0)
    expected = {
        "raw": bare[:, :, 0],
        "rollout": jaxflow.rollout(edges, residual=0),
        "flow": jaxflow.flow(edges, residual=0),
    }
    for name, tokens in expected.items():
        rows = tokens[:, :, 0] if readout == "cls" else tokens[:, :, 1:].mean(-2)
        np.testing.assert_allclose(found[name], rows, atol=1e-12)
    plain = patch_scores(attention, VisionOptions(readout, "max"))
    assert all(np.abs(plain[name] - found[name]).max() > 1e-3 for name in METHODS)


def test_unknown_methods_and_readouts_are_named() -> None:
    attention = attention_of("dense", 0, (1, 1, 1, 3, 3))
    with pytest.raises(
        ValueError, match="methods must be one or more of raw, rollout, flow, got x"
    ):
        patch_scores(attention, VisionOptions("cls"), ("raw", "x"))
    with pytest.raises(ValueError, match="methods must be one or more"):
        patch_scores(attention, VisionOptions("cls"), ())
    with pytest.raises(ValueError, match="readout must be cls or mean here, got None"):
        patch_scores(attention, VisionOptions())
    with pytest.raises(ValueError, match="readout must be cls or mean, got 'max'"):
        VisionOptions("max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ratio must be"):
        patch_scores(attention, VisionOptions("cls", ratio=1.5))


def test_an_explanation_holds_what_it_says(picture: Path) -> None:
    model = random_model()
    found = explain_image(model, picture, occlusion="grey")
    np.testing.assert_array_equal(found.picture, PICTURE)
    assert (found.name, found.labels, found.readout) == ("noise.png", ("cat", "dog", "fish"), "cls")
    output = model(to_pixels(PICTURE, model.config)[None])  # type: ignore[arg-type]
    logits = np.asarray(output.logits, np.float64)[0]
    np.testing.assert_allclose(found.probabilities, np.exp(logits) / np.exp(logits).sum())
    assert found.prediction == logits.argmax()
    assert list(found.scores) == [*METHODS, "occlusion"]
    assert list(found.layers) == list(found.cls_share) == list(METHODS)
    rolled = oracles.rollout(np.asarray(output.attention, np.float64)[0])
    for layer in range(2):
        row = rolled[layer, 0]
        np.testing.assert_allclose(found.layers["rollout"][layer].ravel(), row[1:], atol=1e-6)
        assert found.cls_share["rollout"][layer] == pytest.approx(row[0], abs=1e-6)
    record = json.loads(as_image_json(found))
    assert record["size"] == [20, 40]
    assert record["prediction"] == found.labels[found.prediction]
    assert [name for name, _ in record["probabilities"]] == ["cat", "dog", "fish"]
    assert record["options"]["ratio"] == 0
    for name in METHODS:
        np.testing.assert_array_equal(record["layers"][name], found.layers[name])
        np.testing.assert_array_equal(record["scores"][name], found.scores[name])
        assert found.layers[name].shape == (2, 2, 3)
        np.testing.assert_array_equal(found.scores[name], found.layers[name][-1])
    assert found.scores["occlusion"].shape == (2, 3)


@pytest.mark.parametrize("readout", ["cls", "mean"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_every_map_shows_the_only_patch_that_matters(
    readout: Any, ratio: float, tmp_path: Path
) -> None:
    model, place = bright_patch_model(readout), (1, 2)
    Image.fromarray(bright_picture(*place)).save(tmp_path / "spot.png")
    found = explain_image(
        model, tmp_path / "spot.png", VisionOptions(ratio=ratio), occlusion="black"
    )
    assert found.readout == readout
    assert found.labels[found.prediction] == "bright"
    for name, scores in found.scores.items():
        assert np.unravel_index(scores.argmax(), scores.shape) == place, name
        assert scores[place] > 2 * np.delete(scores.ravel(), 5).max(), name


def test_other_models_are_refused(picture: Path) -> None:
    with pytest.raises(ValueError, match="must be a vision Transformer"):
        explain_image(Model(EncoderConfig(), {}, None), picture)


def test_the_summary_names_classes_and_patches(tmp_path: Path) -> None:
    Image.fromarray(bright_picture(1, 2)).save(tmp_path / "spot.png")
    found = explain_image(bright_patch_model(), tmp_path / "spot.png", methods=("raw", "rollout"))
    written = io.StringIO()
    print_image_explanation(Console(file=written, width=120), found)
    lines = written.getvalue().splitlines()
    assert lines[0].startswith("spot.png: bright 1.000, dark 0.000")
    assert "3 x 3 patches of 2 x 2 pixels" in lines[1]
    raw, rollout = (line.split() for line in lines[-2:])
    assert raw[:4] == ["raw", "0.0%", "2,3", "100.0%"]
    assert rollout[0] == "rollout"
    assert rollout[1] == f"{found.cls_share['rollout'][-1]:.1%}"
    assert rollout[2] == "2,3"
