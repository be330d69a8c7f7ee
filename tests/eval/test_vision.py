"""Test attribution of images: pictures, occlusion, gradients, maps and overlays."""

from __future__ import annotations

import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import torch_models
from attentions import attention_of
from PIL import Image
from rich.console import Console
from vision_models import bright_patch_model, bright_picture, random_model

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow.errors import InputError
from jaxflow.eval.explain import patches, picture
from jaxflow.eval.explain.patches import (
    occluded,
    occlusion_maps,
    patch_gradients,
    read_picture,
    to_pixels,
)
from jaxflow.eval.explain.picture import blended, upsampled
from jaxflow.eval.explain.text import image_record, print_image_explanation
from jaxflow.eval.explain.vision import METHODS, VisionOptions, explain_image, patch_scores
from jaxflow.eval.plots.style import colour_map
from jaxflow.eval.report import json_text
from jaxflow.models import ViTConfig, load
from jaxflow.models.published import image_settings, read_published

RNG = np.random.default_rng(0)
COLOURED = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_transparent_becomes_white_and_a_picture_is_turned_upright(tmp_path):
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[:2] = 255
    path = saved(tmp_path, Image.fromarray(np.concatenate([COLOURED, alpha], -1)))
    np.testing.assert_array_equal(read_picture(path), np.where(alpha, COLOURED, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held with its left side up
    path = saved(tmp_path, Image.fromarray(COLOURED), exif=exif)
    np.testing.assert_array_equal(read_picture(path), np.rot90(COLOURED, -1))


def test_unusable_pictures_are_named(tmp_path, monkeypatch):
    whole = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (90, 90, 3), np.uint8)))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    for name, message in (
        ("text.png", r"text\.png is of no format that can be read"),
        ("missing.png", r"missing\.png cannot be read: No such file"),
        ("", "cannot be read: Is a directory"),
        ("cut.png", r"cut\.png cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            read_picture(tmp_path / name)
    for most in (5000, 3000):  # Pillow warns above, and refuses above twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match="is too large"):
            read_picture(whole)


def test_pictures_are_resized_and_normalised_as_published_processors_do():
    transformers = pytest.importorskip("transformers")
    noise = RNG.integers(0, 256, (50, 37, 3), np.uint8)
    sizes = {"model_type": "vit", "image_size": 16, "patch_size": 4}
    square = {"height": 16, "width": 16}
    for settings in (
        {"size": square},
        {"size": 16, "resample": 3},
        {"size": square, "do_normalize": False},
        {"size": square, "do_rescale": False, "image_mean": [100.0, 90.0, 80.0]},
        {"size": square, "rescale_factor": 1 / 127.5, "resample": 0},
        {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": square},
        {"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": square},
        {"do_resize": False, "do_center_crop": True, "crop_size": square},
        {"image_processor_type": "CLIPImageProcessor", "size": 17, "crop_size": 16},
        {"image_processor_type": "DeiTFeatureExtractor", "size": 19, "crop_size": 16},
    ):
        name = settings.get("image_processor_type", "ViT")[:4].removesuffix("I")
        processor = getattr(transformers, f"{name}ImageProcessorPil")(**settings)
        expected = processor(Image.fromarray(noise), return_tensors="np")["pixel_values"][0]
        for saved in (settings, processor.to_dict()):
            read = read_published(sizes, head="none", images=saved)
            ours = to_pixels(noise, read)
            np.testing.assert_allclose(ours, expected.transpose(1, 2, 0), rtol=1e-5, atol=1e-6)
            again = read_published(sizes, head="none", images=image_settings(read))
            np.testing.assert_array_equal(to_pixels(noise, again), ours)
    for settings, message in (
        ({"do_pad": True}, "do_pad must be false"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type must be that"),
        ({"size": {"longest_edge": 3}}, "size must be height and width or shortest_edge"),
        ({"resample": 9}, "resample must be a whole number from 0 to 5"),
    ):
        with pytest.raises(InputError, match=message):
            read_published(sizes, head="none", images=settings)
    with pytest.raises(InputError, match="must be of 16 x 16 pixels after the steps"):
        to_pixels(noise, read_published(sizes, head="none", images={"size": 8}))


def test_patches_are_hidden_row_by_row():
    config = ViTConfig(image=(4, 6), patch=2, channels=1, labels=("a",), mean=(0.2,), std=(0.5,))
    pixels = np.arange(24, dtype=np.float32).reshape(4, 6, 1)
    for fill, value in {"mean": 11.5, "grey": 0.6, "black": -0.4}.items():
        copies = patches.occluded(pixels, config, fill)
        fifth = pixels.copy()
        fifth[2:4, 2:4] = value
        np.testing.assert_allclose(copies[4], fifth, rtol=1e-6)
        assert ((copies != pixels).sum((1, 2, 3)) == 4).all()
    np.testing.assert_array_equal(pixels, np.arange(24).reshape(4, 6, 1))
    with pytest.raises(ValueError, match="fill must be mean, grey or black, got 'noise'"):
        patches.occluded(pixels, config, "noise")


def test_drops_of_a_probability_near_one_are_told_apart():
    """In float32 all of these probabilities are 1."""
    whole = np.array([30.0, 0.0], np.float32)
    without = np.array([[29.0, 0.0], [28.0, 0.0]], np.float32)
    assert (scipy.special.softmax(without, -1)[:, 0] == 1).all()
    drops = patches.probability_drop(whole, without, 0)
    np.testing.assert_allclose(drops, np.exp([-29.0, -28.0]) - np.exp(-30.0), rtol=1e-6)


def test_occlusion_against_one_call_a_patch():
    model = random_model()
    pixels = RNG.normal(size=(3, 4, 6, 3)).astype(np.float32)
    labels = np.array([0, 2, 1])
    done = []
    maps = occlusion_maps(model, pixels, labels, fill="grey", report=lambda *now: done.append(now))
    assert maps.shape == (3, 2, 3)
    assert done == [(1, 3), (2, 3), (3, 3)]
    for image, label, found in zip(pixels, labels, maps, strict=True):
        copies = np.repeat(image[None], 7, 0)
        for place, (row, column) in enumerate(np.ndindex(2, 3), start=1):
            copies[place, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0  # grey
        before, *after = np.asarray(model.probabilities(copies), np.float64)[:, label]
        np.testing.assert_allclose(found.ravel(), before - np.array(after), atol=1e-6)
    assert np.abs(maps).max() > 0.01


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_gradients_against_finite_differences(readout):
    model = random_model(width=4, image=(4, 4), readout=readout)
    pixels = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = np.array([2, 0])
    found = patch_gradients(model, pixels, labels)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), model.params)
        run = jax.jit(lambda given: model.module.apply(params, given, method="encode").logits)
        wide = jnp.asarray(pixels, jnp.float64)
        embedded = np.asarray(model.module.apply(params, wide, method="embed"))
        for place, label in enumerate(labels):
            logit = lambda given, label=label: run(given[None])[0, label]  # noqa: E731
            gradient = oracles.finite_differences(logit, embedded[place])
            expected = np.linalg.norm(gradient[1:], axis=-1).reshape(2, 2)
            np.testing.assert_allclose(found[place], expected, rtol=2e-3, atol=1e-5)


WIDE = RNG.integers(0, 256, (12, 18, 3), np.uint8)
SCORES = np.array([[0.1, 0.7, 0.2], [0.3, 0.4, 0.5]])
LOW, HIGH = (np.array(colour_map()(share)[:3]) for share in (0.0, 1.0))


@pytest.fixture(scope="module", params=["cls", "mean"])
def explanation(request, tmp_path_factory):
    """A picture of one bright patch, which alone decides."""
    path = tmp_path_factory.mktemp("picture") / "spot.png"
    Image.fromarray(bright_picture(1, 2)).save(path)
    return explain_image(bright_patch_model(request.param), path, occlusion="black")


def test_every_map_shows_the_only_patch_that_matters(explanation):
    assert explanation.labels[explanation.prediction] == "bright"
    for name, scores in explanation.scores.items():
        assert np.unravel_index(scores.argmax(), scores.shape) == (1, 2), name
        assert scores[1, 2] > 2 * np.delete(scores.ravel(), 5).max(), name
    model = bright_patch_model(explanation.readout)
    pixels = to_pixels(bright_picture(1, 2), model.config)[None]
    (norms,) = patch_gradients(model, pixels, np.array([1]))
    assert np.delete(norms.ravel(), 5).max() < 1e-6 * norms[1, 2]
    drops = explanation.scores["occlusion"]
    assert drops[1, 2] > 0.5
    np.testing.assert_array_equal(np.delete(drops.ravel(), 5), 0)


def test_a_map_is_brought_to_the_pictures_size_and_blended():
    plain = upsampled(SCORES, (4, 9), smooth=False)
    np.testing.assert_allclose(plain, SCORES.repeat(2, 0).repeat(3, 1), rtol=1e-6)
    smooth = upsampled(SCORES, (6, 9))
    # A patch's middle keeps its score; between two it is interpolated.
    np.testing.assert_allclose(smooth[1::3, 1::3], SCORES, rtol=1e-6)
    np.testing.assert_allclose(smooth[1, 2], 0.1 + 0.6 / 3, rtol=1e-6)
    light = np.asarray(Image.fromarray(WIDE).convert("L"), float)[..., None]
    np.testing.assert_allclose(blended(WIDE, SCORES, opacity=0) - light, 0, atol=1)
    heat = blended(WIDE, SCORES, smooth=False, opacity=1)
    np.testing.assert_allclose(heat[:6, 6:12] / 255, np.broadcast_to(HIGH, (6, 6, 3)), atol=3e-3)
    np.testing.assert_allclose(heat[:6, :6] / 255, np.broadcast_to(LOW, (6, 6, 3)), atol=3e-3)
    mixed = blended(WIDE, SCORES, smooth=False, opacity=0.4)
    np.testing.assert_allclose(mixed, 0.6 * light + 0.4 * heat, atol=1.5)
    rounded = 1 + 1e-7 * SCORES  # the same for all patches, but for rounding
    grey = blended(WIDE, rounded, opacity=1)
    assert (grey == grey[0, 0, 0]).all()


def test_the_figure_shows_every_method_in_the_right_place(explanation, tmp_path):
    path = picture.save_overlay(explanation, tmp_path / "all.png", smooth=False)
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    figure = picture.draw_overlays(explanation, smooth=False)
    panels = [axes for axes in figure.axes if axes.get_images()]
    titles = [axes.get_title() for axes in panels]
    assert titles == ["bright (1.00)", "raw", "rollout", "flow", "occlusion"]
    for axes in panels[1:]:
        box, tints = axes.get_position(), []
        for row, column in ((1, 2), (0, 0)):
            x = box.x0 + box.width * (column + 0.5) / 3
            y = 1 - box.y1 + box.height * (row + 0.5) / 3
            red, _, blue = pixels[int(y * len(pixels)), int(x * pixels.shape[1])]
            tints.append(blue - red)
        assert tints[0] > 40 + abs(tints[1]), axes.get_title()
    bars = [axes for axes in figure.axes if not axes.get_images() and axes.get_visible()]
    labels = [text.get_text() for axes in bars for text in axes.get_xticklabels()]
    assert f"{explanation.scores['rollout'].max():.2g}" in labels


@pytest.mark.parametrize("readout", ["cls", "mean"])
@pytest.mark.parametrize("heads", ["mean", "min", 1])
def test_scores_are_the_readouts_rows(readout, heads):
    attention = attention_of("dense", 5, (2, 3, 2, 4, 4))
    found = patch_scores(attention, VisionOptions(readout, heads, residual=0.3))
    assert set(found) == set(METHODS)
    queries = [0] if readout == "cls" else [1, 2, 3]
    for image, stack in enumerate(attention):
        edges = oracles.edge_weights(stack, 0.3, heads)
        flows = [flow_by_definition(edges, *place) for place in np.ndindex(3, 4, 4)]
        expected = {
            "raw": oracles.raw_attention(stack, heads),
            "rollout": oracles.rollout(stack, 0.3, heads),
            "flow": np.reshape(flows, (3, 4, 4)),
        }
        for name, tokens in expected.items():
            np.testing.assert_allclose(found[name][image], tokens[:, queries].mean(1), atol=1e-9)


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_discarding_goes_into_every_method(readout):
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


def test_unknown_methods_and_readouts_are_named():
    attention = attention_of("dense", 0, (1, 1, 1, 3, 3))
    for options, methods, message in (
        ({"readout": "cls"}, ("raw", "x"), "one or more of raw, rollout, flow, got x"),
        ({"readout": "cls"}, (), "methods must be one or more"),
        ({}, METHODS, "readout must be cls or mean here, got None"),
        ({"readout": "max"}, METHODS, "readout must be cls or mean, got 'max'"),
        ({"readout": "cls", "ratio": 1.5}, METHODS, "ratio must be"),
    ):
        with pytest.raises(ValueError, match=message):
            patch_scores(attention, VisionOptions(**options), methods)


def test_an_explanation_is_of_the_models_own_attention(tmp_path):
    noise = RNG.integers(0, 256, (20, 40, 3), np.uint8)
    model = random_model()
    found = explain_image(model, saved(tmp_path, Image.fromarray(noise)), occlusion="grey")
    np.testing.assert_array_equal(found.picture, noise)
    output = model(to_pixels(noise, model.config)[None])
    probabilities = scipy.special.softmax(np.asarray(output.logits, np.float64)[0])
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-6)
    assert list(found.scores) == [*METHODS, "occlusion"]
    assert list(found.layers) == list(found.cls_share) == list(METHODS)
    rolled = oracles.rollout(np.asarray(output.attention, np.float64)[0])[:, 0]
    np.testing.assert_allclose(found.layers["rollout"].reshape(2, 6), rolled[:, 1:], atol=1e-6)
    np.testing.assert_allclose(found.cls_share["rollout"], rolled[:, 0], atol=1e-6)
    record = json.loads(json_text(image_record(found)))
    assert record["size"] == [20, 40]
    assert record["prediction"] == found.labels[probabilities.argmax()]
    assert [name for name, _ in record["probabilities"]] == ["cat", "dog", "fish"]
    assert record["options"]["ratio"] == 0
    for name in METHODS:
        np.testing.assert_array_equal(record["layers"][name], found.layers[name])
        np.testing.assert_array_equal(record["scores"][name], found.layers[name][-1])
        np.testing.assert_array_equal(found.scores[name], found.layers[name][-1])


def test_the_summary_names_classes_and_patches(explanation):
    written = io.StringIO()
    print_image_explanation(Console(file=written, width=120), explanation)
    lines = written.getvalue().splitlines()
    assert re.match(r"spot\.png: bright [01]\.\d{3}, dark 0\.\d{3}", lines[0])
    assert "3 x 3 patches of 2 x 2 pixels" in lines[1]
    rows = {line.split()[0]: line.split() for line in lines}
    for name, share in explanation.cls_share.items():
        assert rows[name][1:3] == [f"{share[-1]:.1%}", "2,3"]


HEADS = {
    "none": ("ViTModel", {}, None),
    "multi-label": (
        "ViTForImageClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        scipy.special.expit,
    ),
    "regression": ("ViTForImageClassification", {"num_labels": 1}, lambda logits: logits),
}


def test_occlusion_of_several_numbers_is_refused(tmp_path):
    changes = {"num_labels": 3, "problem_type": "regression"}
    theirs = torch_models.random_model("ViTForImageClassification", changes)
    ours = load(torch_models.write(theirs, tmp_path / "model"))
    path = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (8, 12, 3), np.uint8)))
    with pytest.raises(InputError, match="3 numbers"):
        explain_image(ours, path, occlusion="mean")


@pytest.mark.parametrize("answer", HEADS)
def test_pictures_of_every_head_are_explained_as_transformers_answers(answer, tmp_path):
    name, changes, values = HEADS[answer]
    theirs = torch_models.random_model(name, changes)
    ours = load(torch_models.write(theirs, tmp_path / "model"))
    path = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (8, 12, 3), np.uint8)))
    found = explain_image(ours, path, occlusion="mean" if values else None)
    pixels = (np.asarray(Image.open(path), np.float32)[None] / 255 - 0.5) / 0.5
    expected = torch_models.run(theirs, pixels)
    raw = expected.attention[0].mean(1)[:, 0, 1:].reshape(-1, 2, 3)
    np.testing.assert_allclose(found.layers["raw"], raw, atol=1e-5)
    assert found.answer == answer
    stream = io.StringIO()
    print_image_explanation(Console(file=stream, width=300), found)
    if values is None:
        assert (found.probabilities.size, found.prediction) == (0, None)
        assert "no head" in stream.getvalue()
        with pytest.raises(InputError, match="head"):
            explain_image(ours, path, occlusion="mean")
        return
    whole = values(expected.logits[0])
    np.testing.assert_allclose(found.probabilities, whole, atol=1e-5)
    assert found.prediction == whole.argmax()
    hidden = torch_models.run(theirs, occluded(pixels[0], ours.config, "mean")).logits
    drops = whole.max() - values(hidden)[:, whole.argmax()]
    np.testing.assert_allclose(found.scores["occlusion"].ravel(), drops, atol=1e-5)
    word = {"regression": "a number", "multi-label": "do not exclude each other"}[answer]
    assert word in stream.getvalue()
