"""Models to hand on: one small folder of plain files, which needs nothing of a training run.

``model.safetensors`` holds the parameters, ``vocabulary.txt`` the words, ``accuracy.json`` how good
the model is, and ``config.json`` all else: the encoder's sizes, the training recipe, how precisely
the parameters are stored, and a checksum of each of the other files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder_files import Precision, checksums, packed, read_sealed, unpacked
from jaxflow.models.model import Model

__all__ = ["FILES", "is_export", "read_export", "rounded", "write_export"]

FORMAT = "jaxflow-encoder-export-1"
#: The files that ``config.json`` has the checksums of: parameters, words, and how good they are.
FILES = ("model.safetensors", "vocabulary.txt", "accuracy.json")


def rounded(model: Model, precision: Precision) -> Model:
    """Return the model that will be read from an export of this precision.

    Raises
    ------
    InputError
        If a parameter is too large for the precision.
    """
    with np.errstate(over="ignore"):  # an error below, not a warning here
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf).astype(precision).astype(np.float32), model.params
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise InputError(f"the model's parameters must be finite numbers that {precision} can hold")
    return dataclasses.replace(model, params=params)


def write_export(
    folder: Path,
    model: Model,
    *,
    recipe: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    precision: Precision = "float16",
) -> None:
    """Write a model to a folder; other files there are left alone.

    Parameters
    ----------
    folder
        Created with its parents if it is not there.
    model
        The model.
    recipe
        How it was trained, JSON-ready.
    accuracy
        How good it is, JSON-ready.
    precision
        Of the stored parameters; reading turns them back into float32.

    Raises
    ------
    InputError
        If a parameter is too large for the precision, or the folder cannot be written.
    """
    parameters, words = packed(rounded(model, precision), precision)
    content = dict(zip(FILES, (parameters, words, _json(accuracy)), strict=True))
    card = {
        "format": FORMAT,
        "encoder": model.config.to_dict(),
        "precision": precision,
        "recipe": dict(recipe),
        "sha256": checksums(content),
    }
    # Last of all: until then the folder holds no export, or one whose checksums tell of the other.
    content["config.json"] = _json(card)
    write_together(folder, content, remove=["config.json"])


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported model, be it damaged."""
    if (folder / "model.safetensors").is_file():
        return True
    try:
        return FORMAT in (folder / "config.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def read_export(folder: Path) -> Model:
    """Read what `write_export` wrote.

    Raises
    ------
    InputError
        If a file is missing or damaged, or not this project's.
    """
    try:
        card = json.loads((folder / "config.json").read_bytes())
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise InputError(f"it is not a model of the format {FORMAT}")
        config = EncoderConfig.from_dict(card["encoder"])
        known = {name: str(card["sha256"][name]) for name in FILES}
    except InputError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    except OSError as error:
        raise InputError(
            f"the model's file {folder / 'config.json'} cannot be read: {error.strerror or error}"
        ) from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the model's file {folder / 'config.json'} is damaged: {error}"
        ) from error
    content = list(read_sealed(folder, known).items())
    return unpacked(config, folder, content[0], content[1])


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
