"""Overlays, read back from their pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision_models import bright_patch_model, bright_picture

from jaxflow.eval.explain.overlay import (
    blended,
    draw_overlays,
    enlarged,
    heat_colours,
    save_overlay,
    upsampled,
)
from jaxflow.eval.explain.vision import ImageExplanation, explain_image

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (12, 18, 3), np.uint8)
SCORES = np.array([[0.1, 0.7, 0.2], [0.3, 0.4, 0.5]])
LOW, HIGH = (np.array(heat_colours()(share)[:3]) for share in (0.0, 1.0))


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> ImageExplanation:
    path = tmp_path_factory.mktemp("picture") / "spot.png"
    Image.fromarray(bright_picture(1, 2)).save(path)
    return explain_image(bright_patch_model(), path, occlusion="black")


def test_a_map_is_brought_to_the_pictures_size() -> None:
    plain = upsampled(SCORES, (4, 9), smooth=False)
    np.testing.assert_allclose(plain, SCORES.repeat(2, 0).repeat(3, 1), rtol=1e-6)
    smooth = upsampled(SCORES, (6, 9))
    # A patch's middle keeps its score; halfway to the next is their mean.
    np.testing.assert_allclose(smooth[1::3, 1::3], SCORES, rtol=1e-6)
    np.testing.assert_allclose(upsampled(np.array([[0.0, 1.0]]), (1, 6))[0, 2:4].mean(), 0.5)
    np.testing.assert_allclose(smooth[1, 2], 0.1 + 0.6 / 3, rtol=1e-6)


def test_heat_runs_from_blue_to_red() -> None:
    assert LOW[2] == LOW.max()
    assert HIGH[0] == HIGH.max()


def test_blending_is_a_weighted_mean() -> None:
    np.testing.assert_array_equal(blended(PICTURE, SCORES, opacity=0), PICTURE)
    heat = blended(PICTURE, SCORES, smooth=False, opacity=1)
    np.testing.assert_allclose(heat[:6, 6:12] / 255, np.broadcast_to(HIGH, (6, 6, 3)), atol=3e-3)
    np.testing.assert_allclose(heat[:6, :6] / 255, np.broadcast_to(LOW, (6, 6, 3)), atol=3e-3)
    mixed = blended(PICTURE, SCORES, smooth=False, opacity=0.4)
    np.testing.assert_allclose(mixed, 0.6 * PICTURE + 0.4 * heat, atol=1)


def test_colours_do_not_depend_on_the_scores_level() -> None:
    np.testing.assert_array_equal(blended(PICTURE, 5 * SCORES - 9), blended(PICTURE, SCORES))


def test_equal_scores_are_one_colour() -> None:
    heat = blended(PICTURE, np.full((2, 3), 0.3), opacity=1)
    np.testing.assert_allclose(heat / 255, np.broadcast_to(LOW, heat.shape), atol=3e-3)


def test_unusable_scores_and_opacities_are_named() -> None:
    for wrong in (np.array([[np.nan, 1]]), np.arange(3.0)):
        with pytest.raises(ValueError, match="scores must be finite numbers"):
            blended(PICTURE, wrong)
    with pytest.raises(ValueError, match="opacity must be from 0 to 1, got 2"):
        blended(PICTURE, SCORES, opacity=2)


def test_small_pictures_are_enlarged_pixel_by_pixel() -> None:
    large = enlarged(PICTURE, 30)
    np.testing.assert_array_equal(large, PICTURE.repeat(2, 0).repeat(2, 1))
    assert enlarged(PICTURE, 10) is not None
    np.testing.assert_array_equal(enlarged(PICTURE, 10), PICTURE)


def test_a_bare_overlay_is_the_picture_pixel_for_pixel(
    explanation: ImageExplanation, tmp_path: Path
) -> None:
    path = save_overlay(
        explanation, tmp_path / "new" / "bare.png", methods=["rollout"], bare=True, smooth=False
    )
    assert path == tmp_path / "new" / "bare.png"
    with Image.open(path) as file:
        pixels = np.asarray(file)
    expected = blended(explanation.picture, explanation.scores["rollout"], smooth=False)
    np.testing.assert_array_equal(pixels, expected)
    spot, rest = pixels[2:4, 4:6].astype(int), pixels[4:, :4].astype(int)
    assert (spot[..., 0] > spot[..., 2]).all()  # red where the bright patch is
    assert (rest[..., 2] > rest[..., 0]).all()


@pytest.mark.parametrize("colour_bar", [True, False])
def test_the_figure_shows_every_method_in_the_right_place(
    explanation: ImageExplanation, colour_bar: bool, tmp_path: Path
) -> None:
    path = save_overlay(explanation, tmp_path / "all.png", smooth=False, colour_bar=colour_bar)
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    figure = draw_overlays(explanation, smooth=False, colour_bar=colour_bar)
    panels = [axes for axes in figure.axes if axes.get_images()]
    titles = [axes.get_title() for axes in panels]
    assert titles == ["bright (1.00)", "raw", "rollout", "flow", "occlusion"]
    height, width = pixels.shape[:2]
    for axes in panels[1:]:
        box = axes.get_position()

        def patch(row: int, column: int, box=box) -> np.ndarray:
            x = box.x0 + box.width * (column + 0.5) / 3
            y = box.y1 - box.height * (row + 0.5) / 3
            return pixels[int((1 - y) * height), int(x * width)]

        hot, cold = patch(1, 2), patch(0, 0)
        assert hot[0] > hot[2], axes.get_title()
        assert cold[2] > cold[0], axes.get_title()
    bars = [axes for axes in figure.axes if not axes.get_images() and axes.get_visible()]
    labels = [text.get_text() for axes in bars for text in axes.get_xticklabels()]
    if colour_bar:
        top = explanation.scores["rollout"].max()
        assert f"{top:.2g}" in labels
    else:
        assert labels == []


def test_long_names_of_classes_are_cut(explanation: ImageExplanation) -> None:
    long = dataclasses.replace(
        explanation, labels=("dark", "tusker, an elephant with $tusks$ of ivory")
    )
    title = draw_overlays(long, methods=["raw"]).axes[0].get_title()
    assert title == "tusker, an elephant wit… (1.00)"


def test_unusable_requests_leave_nothing(explanation: ImageExplanation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="methods must be among raw, rollout, flow, occlusion"):
        save_overlay(explanation, tmp_path / "x.png", methods=["gradient"])
    with pytest.raises(ValueError, match="methods must be among"):
        save_overlay(explanation, tmp_path / "x.png", methods=[])
    with pytest.raises(ValueError, match="bare must be asked for with one method"):
        save_overlay(explanation, tmp_path / "x.png", bare=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the folder"):
        save_overlay(explanation, tmp_path / "file" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
