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
    occlusion_maps,
    read_picture,
    to_pixels,
    vision_config,
)
from jaxflow.models import Model

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
        uint8 ``[height, width, 3]``, as it was read.
    labels
        The C classes' names.
    probabilities
        float64 ``[C]``.
    prediction
        Index of the most probable class.
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
    """

    name: str
    picture: NDArray[np.uint8]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    prediction: int
    readout: Literal["cls", "mean"]
    layers: dict[str, NDArray[np.float64]]
    scores: dict[str, NDArray[np.float64]]
    cls_share: dict[str, NDArray[np.float64]]
    options: VisionOptions


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
    showing this fill instead: a forward pass a patch. Raises `InputError` if the model is of
    another kind, the picture cannot be read, or an option is unusable.
    """
    options = options or VisionOptions()
    config = vision_config(model)
    picture = read_picture(path)
    pixels = to_pixels(picture, config)[None]
    output = model(pixels)
    logits = np.asarray(output.logits, np.float64)[0]
    weights = np.exp(logits - logits.max())
    prediction = int(logits.argmax())

    readout = options.readout or config.readout
    rows = patch_scores(
        np.asarray(output.attention), dataclasses.replace(options, readout=readout), methods
    )
    layers = {name: values[0, :, 1:].reshape(-1, *config.grid) for name, values in rows.items()}
    scores = {name: values[-1] for name, values in layers.items()}
    if occlusion is not None:
        scores["occlusion"] = occlusion_maps(model, pixels, np.array([prediction]), fill=occlusion)[
            0
        ]
    return ImageExplanation(
        name=Path(path).name,
        picture=picture,
        labels=config.labels,
        probabilities=weights / weights.sum(),
        prediction=prediction,
        readout=readout,
        layers=layers,
        scores=scores,
        cls_share={name: values[0, :, 0] / values[0].sum(-1) for name, values in rows.items()},
        options=options,
    )


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
        residual = 0.0 if name == "raw" else options.residual
        given: dict[str, Any] = {"heads": options.heads, "residual": residual}
        edges: Any = attention
        if options.ratio:
            edges = jaxflow.discard(attention, options.ratio, **given)
            given = {"residual": 0.0}  # it is in the edges
        if name == "raw":
            tokens = jaxflow.raw_attention(edges, heads=given.get("heads", "mean"))
        elif name == "rollout":
            tokens = jaxflow.rollout(edges, **given)
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
