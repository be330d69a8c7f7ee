"""Build Vision Transformers small enough for known results."""

from __future__ import annotations

from typing import Any, Literal

import jax
import numpy as np

from jaxflow.models import Model, ViTConfig, init


def random_model(seed: int = 0, **changes: Any) -> Model:
    """A model of random weights, large enough for its answers to differ."""
    fields: dict[str, Any] = {
        "image": (4, 6),
        "patch": 2,
        "channels": 3,
        "layers": 2,
        "heads": 2,
        "width": 8,
        "labels": ("cat", "dog", "fish"),
        **changes,
    }
    config = ViTConfig(**fields)
    return Model(config, jax.tree.map(lambda leaf: 15 * leaf, init(config, seed)), None)


def bright_patch_model(readout: Literal["cls", "mean"] = "cls") -> Model:
    """Built by hand: every token attends to the bright patch, and its class is ``bright``.

    A token's first coordinate is its brightness; keys are that coordinate, normalised, and queries
    one constant. Values carry it to the second coordinate, which the class is read off.
    """
    config = ViTConfig(
        image=(6, 6),
        patch=2,
        channels=1,
        layers=2,
        heads=1,
        width=8,
        labels=("dark", "bright"),
        readout=readout,
        mean=(0.0,),
        std=(1.0,),
    )
    params = jax.tree.map(np.zeros_like, init(config))
    inner = params["params"]
    inner["patches"]["kernel"][:, 0] = 10
    for layer in range(config.layers):
        block = inner[f"blocks_{layer}"]
        block["norm_attention"]["scale"][:] = block["norm_feed_forward"]["scale"][:] = 1
        block["qkv"]["bias"][0] = 1  # query
        block["qkv"]["kernel"][0, config.width] = 40  # key
        block["qkv"]["kernel"][0, 2 * config.width + 1] = 1  # value
        block["attention_out"]["kernel"][1, 1] = 1
    inner["norm"]["scale"][:] = 1
    inner["readout"]["kernel"][1, 1] = 5
    inner["readout"]["bias"][0] = 1
    return Model(config, params, None)


def bright_picture(row: int, column: int) -> np.ndarray:
    """A black picture ``[6, 6, 3]``, white in one of its nine patches."""
    picture = np.zeros((6, 6, 3), np.uint8)
    picture[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
    return picture
