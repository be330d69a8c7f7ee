"""Explain a vision Transformer's prediction by scores of the image's patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import (
    Fill,
    framed,
    occlusion_maps,
    read_picture,
    to_pixels,
    vision_config,
)
from jaxflow.models import Answer, Model, answer_values

METHODS = ("raw", "rollout", "flow")


@dataclasses.dataclass(frozen=True)
class VisionOptions:
    """Options of maps of attention over the image.

    Attributes
    ----------
    readout
        Whose row is read: ``cls`` that of ``[CLS]``, ``mean`` the mean of all patches' rows; None
        takes what the model reads its classes off.
    heads
        How heads are fused: ``mean``, ``max``, ``min`` or the index of one.
    ratio
        Share of each layer's fused entries that is discarded, see `jaxflow.discard`.
    residual
        Share of the residual connection in rollout and flow.
    threads
        For flow; None takes all cores.
    """

    readout: Literal["cls", "mean"] | None = None
    heads: str | int = "mean"
    ratio: float = 0.0
    residual: float = 0.5
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.readout not in (None, "cls", "mean"):
            raise InputError(f"readout must be cls or mean, got {self.readout!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageExplanation:
    """The scores of one image by every method.

    Attributes
    ----------
    name
        The picture's file.
    picture
        uint8 ``[height, width, 3]``, as it was read, or what the model's image processor cuts.
    labels
        The C classes' names.
    probabilities
        float64 ``[C]``, of a regression the numbers themselves; empty without a head.
    prediction
        Index of the explained class, by default the most probable one; None without a head.
    readout
        ``cls`` or ``mean``, what was read.
    layers
        Method -> float64 ``[L, rows, columns]``, patches of every layer's readout row; occlusion,
        which has no layers, is not among them.
    scores
        Method -> float64 ``[rows, columns]``: the top layer; ``occlusion``, if requested,
        among them.
    cls_share
        Method -> float64 ``[L]``: the part of the readout row that is on ``[CLS]``, not on the
        image, and that no map shows.
    options
        How they were made.
    answer
        The kind of the model's answer, which decides what `probabilities` are.
    saturated
        Share of the flows from the readout to patches that are at their bound, top layer.
    """

    name: str
    picture: NDArray[np.uint8]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    prediction: int | None
    readout: Literal["cls", "mean"]
    layers: dict[str, NDArray[np.float64]]
    scores: dict[str, NDArray[np.float64]]
    cls_share: dict[str, NDArray[np.float64]]
    options: VisionOptions
    answer: Answer = "single-label"
    saturated: float = 0.0


def explain_image(
    model: Model,
    path: Path,
    options: VisionOptions | None = None,
    *,
    methods: Sequence[str] = METHODS,
    occlusion: Fill | None = None,
) -> ImageExplanation:
    """Classify the picture of a file by a ViT, and score its patches by every method.

    `methods` are among ``raw``, ``rollout`` and ``flow``; `occlusion` hides each patch in turn too,
    showing this fill instead: a forward pass a patch. A model without a head predicts nothing, and
    its attention alone is shown. Raises `InputError` if the model is of another kind, the picture
    cannot be read, or an option is unusable.
    """
    options = options or VisionOptions()
    config = vision_config(model, headless=occlusion is None)
    if occlusion is not None and model.answer == "regression" and len(config.labels) > 1:
        raise InputError(
            f"occlusion must be None for a model of {len(config.labels)} numbers, of which none is "
            "the one to explain: leave it out, the maps of attention are of all"
        )
    picture = read_picture(path)
    pixels = to_pixels(picture, config)[None]
    if config.crop is not None:  # maps are laid over what the model is shown
        picture = np.broadcast_to(framed(picture, config), (*config.crop, 3))
    output = model(pixels)
    values, prediction = np.zeros(0), None
    if model.answer != "none":
        values = np.asarray(answer_values(output.logits, model.answer), np.float64)[0]
        prediction = int(values.argmax())

    readout = options.readout or config.readout
    named = dataclasses.replace(options, readout=readout)
    attention = np.asarray(output.attention)
    rows = patch_scores(attention, named, methods)
    layers = {name: values[0, :, 1:].reshape(-1, *config.grid) for name, values in rows.items()}
    scores = {name: values[-1] for name, values in layers.items()}
    if occlusion is not None and prediction is not None:
        scores["occlusion"] = occlusion_maps(model, pixels, np.array([prediction]), fill=occlusion)[
            0
        ]
    return ImageExplanation(
        name=Path(path).name,
        picture=picture,
        labels=config.labels,
        probabilities=values,
        prediction=prediction,
        readout=readout,
        layers=layers,
        scores=scores,
        cls_share={name: values[0, :, 0] / values[0].sum(-1) for name, values in rows.items()},
        options=options,
        answer=model.answer,
        saturated=_saturated(attention, named) if "flow" in methods else 0.0,
    )


def _saturated(attention: NDArray[np.floating], options: VisionOptions) -> float:
    """Return the share of the readout's flows to patches, top layer, that are at their bound."""
    edges, given = _edges(attention, options, options.residual)
    sources = range(1, edges.shape[-1]) if options.readout == "mean" else 0
    reached = jaxflow.saturation(
        edges, sources=sources, layers=-1, threads=options.threads, **given
    ).reached
    return float(reached[..., 1:].mean())


def _edges(
    attention: NDArray[np.floating], options: VisionOptions, residual: float
) -> tuple[Any, dict[str, Any]]:
    """Return attention without what is discarded, and the options it is followed with."""
    given: dict[str, Any] = {"heads": options.heads, "residual": residual}
    if not options.ratio:
        return attention, given
    return jaxflow.discard(attention, options.ratio, **given), {"residual": 0.0}  # it is in them


def patch_scores(
    attention: NDArray[np.floating], options: VisionOptions, methods: Sequence[str] = METHODS
) -> dict[str, NDArray[np.float64]]:
    """Return each method's scores of ``[CLS]`` and the patches, for every layer.

    Parameters
    ----------
    attention
        ``[B, L, H, n, n]``, ``[CLS]`` first.
    options
        With the readout named.
    methods
        Of ``raw``, ``rollout`` and ``flow``.

    Returns
    -------
    dict
        Method -> float64 ``[B, L, n]``. Rollout sums to 1, and so does raw attention unless heads
        are fused by their largest or smallest entries; flow does not.

    Raises
    ------
    InputError
        If a method is unknown, none is given, or an option is unusable.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(
            f"methods must be one or more of {', '.join(METHODS)}, got {', '.join(unknown) or '-'}"
        )
    if options.readout is None:
        raise InputError("readout must be cls or mean here, got None")
    mean = options.readout == "mean"
    found = {}
    for name in methods:
        edges, given = _edges(attention, options, 0.0 if name == "raw" else options.residual)
        if name == "raw":
            tokens = jaxflow.raw_attention(edges, heads=given.get("heads", "mean"))
        elif name == "rollout":
            tokens = jaxflow.rollout(edges, sources=None if mean else 0, **given)
        else:
            # Flow costs by the source: for [CLS] one is enough.
            sources = range(1, edges.shape[-1]) if mean else 0
            tokens = jaxflow.flow(edges, sources=sources, threads=options.threads, **given)
        values = np.asarray(tokens, np.float64)
        if name == "flow":
            found[name] = values.mean(-2)
        else:
            found[name] = values[..., 1:, :].mean(-2) if mean else values[..., 0, :]
    return found
