"""Picture files: what is read of them, what is refused, and what the model gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision_models import random_model

from jaxflow.eval.explain.pixels import read_picture, to_pixels, vision_config
from jaxflow.models import EncoderConfig, Model, ViTConfig

RNG = np.random.default_rng(0)
COLOURED = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "picture.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_is_read_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOURED))
    np.testing.assert_array_equal(read_picture(path), COLOURED)


def test_grey_pictures_have_three_equal_channels(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path, Image.fromarray(COLOURED[..., 0])))
    np.testing.assert_array_equal(picture, COLOURED[..., :1].repeat(3, -1))


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[:2] = 255
    picture = read_picture(saved(tmp_path, Image.fromarray(np.concatenate([COLOURED, alpha], -1))))
    np.testing.assert_array_equal(picture[:2], COLOURED[:2])
    assert (picture[2:] == 255).all()


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    picture = read_picture(saved(tmp_path, image, transparency=1))
    np.testing.assert_array_equal(picture[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(picture[0, 1], [255, 255, 255])


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held with its left side up
    path = saved(tmp_path, Image.fromarray(COLOURED), exif=exif)
    np.testing.assert_array_equal(read_picture(path), np.rot90(COLOURED, -1))


def test_deeper_pictures_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.arange(4, dtype=np.uint16).reshape(2, 2) * 9000))
    with pytest.raises(ValueError, match="must have 8 bits a channel, got Pillow's mode I"):
        read_picture(path)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is of no format that can be read"):
        read_picture(text)
    with pytest.raises(ValueError, match=r"missing\.png cannot be read: No such file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_picture(tmp_path)
    whole = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (90, 90, 3), np.uint8)))
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"picture\.png cannot be read"):
        read_picture(whole)


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(COLOURED))
    for most in (20, 5):  # Pillow warns above, and refuses above twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match="is too large"):
            read_picture(path)


def test_pixels_are_normalised_by_channel() -> None:
    config = ViTConfig(
        image=(5, 7), patch=1, labels=("a",), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)
    )
    pixels = to_pixels(COLOURED, config)
    assert pixels.dtype == np.float32
    assert pixels[2, 3, 1] == pytest.approx((COLOURED[2, 3, 1] / 255 - 0.2) / 2, abs=1e-6)
    assert pixels[4, 0, 2] == pytest.approx((COLOURED[4, 0, 2] / 255 - 0.3) / 4, abs=1e-6)


def test_a_model_of_one_channel_gets_the_luminance() -> None:
    config = ViTConfig(image=(5, 7), patch=1, channels=1, labels=("a",), mean=(0.0,), std=(1.0,))
    expected = COLOURED @ np.array([0.299, 0.587, 0.114])
    assert np.abs(255 * to_pixels(COLOURED, config)[..., 0] - expected).max() <= 0.51


def test_pictures_are_resized_as_published_processors_do() -> None:
    transformers = pytest.importorskip("transformers")
    picture = RNG.integers(0, 256, (50, 37, 3), np.uint8)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, resample=2)
    theirs = np.asarray(processor(Image.fromarray(picture), return_tensors="np")["pixel_values"])
    ours = to_pixels(picture, ViTConfig(image=(16, 16), patch=4, labels=("a",)))
    # They round to whole grey levels between the steps.
    assert np.abs(ours - theirs[0].transpose(1, 2, 0)).max() <= 2 / 127.5


def test_only_classifiers_of_images_are_taken() -> None:
    model = random_model()
    assert vision_config(model) is model.config
    with pytest.raises(ValueError, match="must be a vision Transformer that classifies images"):
        vision_config(Model(EncoderConfig(), {}, None))
    headless = Model(ViTConfig(head="none"), {}, None)
    with pytest.raises(ValueError, match="ViTConfig with the head none"):
        vision_config(headless)


def test_other_numbers_of_channels_are_refused() -> None:
    config = ViTConfig(image=(4, 4), patch=2, channels=2, labels=("a",), mean=(0, 0), std=(1, 1))
    with pytest.raises(ValueError, match="must take 1 or 3 channels"):
        to_pixels(COLOURED, config)
