"""Read pictures for a vision model, and score their patches by occlusion and gradients."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.models import Answer, Model, ViTConfig

# Modes of 8 bits a channel, or of a palette of such colours; deeper ones Pillow would clip.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})

# Of Pillow's formats those that pictures come in. Some of the others start programs (EPS).
_FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "PCX",
)  # fmt: skip
# Pixels that any file may have, and pixels that a larger file may have for each of its bytes.
_PIXELS, _PIXELS_A_BYTE = 1 << 24, 1_000


def vision_config(model: Model, *, headless: bool = False) -> ViTConfig:
    """Return the configuration of a model that classifies images, `headless` also of one without.

    Raises `InputError` if it is another model, or a ViT without a classification head.
    """
    heads = ("classification", "none") if headless else ("classification",)
    if not isinstance(model.config, ViTConfig) or model.config.head not in heads:
        raise InputError(
            "model must be a vision Transformer that classifies images, got "
            f"{type(model.config).__name__} with the head {model.config.head}"
        )
    return model.config


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture, the first frame where it has several, as uint8 ``[height, width, 3]``.

    PNG, JPEG, GIF, WebP, TIFF, BMP, PPM, JPEG 2000, AVIF, TGA, ICO and PCX, turned upright by the
    orientation tag; what is transparent becomes white. Raises `InputError` if the file cannot be
    read, is no picture, has more than 8 bits a channel, or claims more pixels than 16 million and
    1,000 a byte.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # A picture of so many pixels that Pillow warns of an attack is not read at all.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # of Pillow, for some formats
            Image.init()
            known = [name for name in _FORMATS if name in Image.OPEN]
            # Read from memory: Pillow allocates the 2 GB that a chunk of a file on disk may claim.
            content = Path(path).read_bytes()
            with Image.open(io.BytesIO(content), formats=known) as opened:
                _check_size(path, opened.size, len(content))
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise InputError(f"the picture {path} is of no format that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"the picture {path} is too large: {error}") from error
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise InputError(f"the picture {path} cannot be read: {reason}") from error
    if picture.mode not in _MODES:
        raise InputError(
            f"the picture {path} must have 8 bits a channel, got Pillow's mode {picture.mode}: "
            "convert it first"
        )
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _check_size(path: Path, size: tuple[int, int], stored: int) -> None:
    """Refuse a picture that would take far more memory than its file can account for."""
    pixels = size[0] * size[1]
    if pixels > max(_PIXELS, _PIXELS_A_BYTE * stored):
        raise InputError(
            f"the picture {path} is too large: it claims {size[0]} x {size[1]} pixels in a file of "
            f"{stored:,} bytes"
        )


def to_pixels(picture: NDArray[np.uint8], config: ViTConfig) -> NDArray[np.float32]:
    """Prepare a picture uint8 ``[height, width, 3]`` as the model's configuration says.

    It is resized, cut from the middle and normalised as the image processor of the published model
    does it; by default the whole picture is taken, so that one of other proportions is squashed.
    1 channel takes the luminance. Returns float32 ``[H, W, C]``.

    Raises `InputError` if the model has another number of channels, or takes another size.
    """
    values = framed(picture, config)
    if values.shape[:2] != config.image:
        raise InputError(
            f"the picture must be of {config.image[0]} x {config.image[1]} pixels after the steps "
            f"of preprocessor_config.json, got {values.shape[0]} x {values.shape[1]}"
        )
    scaled = (values.astype(np.float64) * config.scale).astype(np.float32)
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return np.asarray((scaled - mean) / std, np.float32)


def framed(picture: NDArray[np.uint8], config: ViTConfig) -> NDArray[np.uint8]:
    """Return what a model is shown of a picture, resized and cut, uint8 ``[H, W, C]``."""
    from PIL import Image

    if config.channels not in (1, 3):
        raise InputError(
            f"model must take 1 or 3 channels to read a picture, got {config.channels}"
        )
    image: Any = Image.fromarray(picture)
    image = image.convert("L" if config.channels == 1 else "RGB")
    size = config.image if config.resize is None else config.resize
    if len(size) == 1:  # the shorter side
        size = tuple(size[0] * side // min(picture.shape[:2]) for side in picture.shape[:2])
    if size:
        image = image.resize(size[::-1], config.resample)
    values = np.asarray(image).reshape(*image.size[::-1], config.channels)
    if config.crop is None:
        return values
    short = [max(0, cut - side) for cut, side in zip(config.crop, values.shape, strict=False)]
    before = [-(-part // 2) for part in short]  # what is too small gets black edges
    edges = [(first, part - first) for first, part in zip(before, short, strict=True)]
    first = [
        (side - cut) // 2 + black
        for side, cut, black in zip(values.shape, config.crop, before, strict=False)
    ]
    top, left = first
    return np.pad(values, [*edges, (0, 0)])[
        top : top + config.crop[0], left : left + config.crop[1]
    ]


Fill = Literal["mean", "grey", "black"]
"""Fill of a hidden patch: the image's own mean colour, the middle between black and white, or
black."""

_AT_ONCE = 64  # images a batch


def occluded(pixels: NDArray, config: ViTConfig, fill: Fill = "mean") -> NDArray[np.float32]:
    """Return copies ``[P, H, W, C]`` of a normalised image with one patch hidden, row by row.

    Raises `InputError` if there is no such fill.
    """
    if fill == "mean":
        colour = pixels.mean((0, 1), dtype=np.float64)
    elif fill in ("grey", "black"):
        value = 127.5 if fill == "grey" else 0.0
        colour = (value * config.scale - np.array(config.mean)) / np.array(config.std)
    else:
        raise InputError(f"fill must be mean, grey or black, got {fill!r}")
    (rows, columns), side = config.grid, config.patch
    copies = np.repeat(np.asarray(pixels, np.float32)[None], rows * columns, 0)
    for place, copy in enumerate(copies):
        top, left = side * (place // columns), side * (place % columns)
        copy[top : top + side, left : left + side] = colour
    return copies


def probability_drop(
    whole: NDArray[np.floating],
    without: NDArray[np.floating],
    label: int,
    answer: Answer = "single-label",
) -> NDArray[np.float64]:
    r"""Return how far a class's probability falls, :math:`p_y(x) - p_y(x_{-t})`, float64 ``[P]``.

    From logits ``[C]`` of the image and ``[P, C]`` of its copies, for the kind of answer that the
    model gives; of a regression the number falls. Worked out as the rise of all that is not the
    class: a probability near 1 is rounded to 1 in float32.
    """

    def others(logits: NDArray) -> NDArray[np.float64]:
        values = np.asarray(logits, np.float64)
        if answer == "regression":
            return -values[..., label]
        if answer == "multi-label":
            return 1 / (1 + np.exp(values[..., label]))
        weights = np.exp(values - values.max(-1, keepdims=True))
        return np.delete(weights, label, -1).sum(-1) / weights.sum(-1)

    return others(without) - others(whole)


def occlusion_maps(
    model: Model,
    pixels: NDArray[np.float32],
    labels: NDArray[np.integer],
    *,
    fill: Fill = "mean",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Hide every patch of every image in turn, and return how far the class's probability falls.

    Parameters
    ----------
    model
        A ViT that classifies.
    pixels
        ``[S, H, W, C]``, normalised.
    labels
        ``[S]``, the class of each image that is explained.
    fill
        What a hidden patch shows.
    report
        Called with the number of images done and their total.

    Returns
    -------
    array
        float64 ``[S, rows, columns]``, negative where the probability rises.

    Raises
    ------
    InputError
        If the model is of another kind or there is no such fill.
    """
    config = vision_config(model)
    classify = _classifier(model)
    maps = []
    for image, label in zip(pixels, labels, strict=True):
        batch = np.concatenate([image[None], occluded(image, config, fill)])
        # Batches of one size are compiled once.
        size = min(_AT_ONCE, len(batch))
        padded = np.concatenate([batch, np.repeat(batch[:1], -len(batch) % size, 0)])
        logits = [
            np.asarray(classify(model.params, padded[start : start + size]))
            for start in range(0, len(padded), size)
        ]
        found = np.concatenate(logits)[: len(batch)]
        drop = probability_drop(found[0], found[1:], int(label), model.answer).reshape(config.grid)
        maps.append(drop)
        report(len(maps), len(labels))
    return np.array(maps).reshape(len(labels), *config.grid)


def patch_gradients(
    model: Model, pixels: NDArray[np.float32], labels: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the norm of the gradient of the class's logit at each embedded patch.

    From pixels ``[S, H, W, C]`` and classes ``[S]`` to float64 ``[S, rows, columns]``.

    Raises
    ------
    InputError
        If the model is of another kind.
    """
    config = vision_config(model)
    apply: Callable[..., Any] = model.module.apply

    @jax.jit
    def norms(params: Any, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        def score(embeddings: jax.Array) -> jax.Array:
            logits = apply(params, embeddings, method="encode").logits
            return jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]

        embeddings = apply(params, pixels, method="embed")
        return jnp.asarray(jaxflow.gradient_norm(score, embeddings))[:, 1:]  # without [CLS]

    parts = [
        np.asarray(norms(model.params, pixels[start : start + _AT_ONCE], labels[start:][:_AT_ONCE]))
        for start in range(0, len(labels), _AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float64).reshape(len(labels), *config.grid)


def _classifier(model: Model) -> Callable[..., jax.Array]:
    apply: Callable[..., Any] = model.module.apply
    return jax.jit(lambda params, pixels: apply(params, pixels, method="classify"))
