"""``jaxflow explain --image``: the patches that a picture's class came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from jaxflow.errors import InputError

__all__ = ["ImageOptions", "explain_picture"]


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """Options of pictures, for a vision Transformer."""

    heads: str | None = None
    """How heads are fused in a picture's maps: mean, max, min or the index of one; by default
    mean."""
    discard: float | None = None
    """Share of each layer's lowest attention that a picture's maps leave out, from 0 to below 1."""
    readout: Literal["cls", "mean"] | None = None
    """Whose row a picture's maps show: that of [CLS], or the mean of all patches; by default what
    the model reads its classes off."""
    occlusion: bool = False
    """Hide each patch of a picture in turn, too: a forward pass a patch."""

    def given(self) -> list[str]:
        """Return the names of the options that were given."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name)]


def explain_picture(picture: Path, model: str | None, options: ImageOptions, png: Path) -> None:
    """Classify a picture, write its maps over it and print a summary.

    Raises
    ------
    InputError
        If there is no model or it is none of images, or the picture cannot be read.
    """
    from rich.console import Console

    from jaxflow.commands.naming import named_model
    from jaxflow.eval.explain.image_summary import print_image_explanation
    from jaxflow.eval.explain.overlay import save_overlay
    from jaxflow.eval.explain.vision import VisionOptions, explain_image

    if model is None:
        raise InputError("image needs --model with a vision Transformer: its folder or its name")
    heads = options.heads or "mean"
    found = explain_image(
        named_model(None, model),
        picture,
        VisionOptions(
            readout=options.readout,
            heads=int(heads) if heads.lstrip("-").isdigit() else heads,
            ratio=options.discard or 0.0,
        ),
        occlusion="mean" if options.occlusion else None,
    )
    written = save_overlay(found, png)
    print_image_explanation(Console(highlight=False), found)
    print(f"wrote {written}")
