"""Models to hand on: one small folder of plain files, which needs nothing of a training run.

``model.safetensors`` holds the parameters, ``vocabulary.txt`` the words, ``accuracy.json`` how good
the model is, and ``config.json`` all else: the encoder's sizes, the training recipe, how precisely
the parameters are stored, and a checksum of each of the other files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.files import write_files
from jaxflow.models.model import Model
from jaxflow.models.tokenizer import WordTokenizer

__all__ = ["FILES", "Precision", "is_export", "read_export", "rounded", "write_export"]

FORMAT = "jaxflow-encoder-export-1"
#: The files that ``config.json`` has the checksums of.
FILES = ("model.safetensors", "vocabulary.txt", "accuracy.json")

Precision = Literal["float16", "float32"]


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
    from safetensors.numpy import save

    tokenizer = model.tokenizer
    if not isinstance(model.config, EncoderConfig) or not isinstance(tokenizer, WordTokenizer):
        raise InputError(
            "only an agreement encoder can be exported: use save_pretrained for others"
        )
    flat = flax.traverse_util.flatten_dict(rounded(model, precision).params["params"], sep=".")
    content = {
        "model.safetensors": save({name: leaf.astype(precision) for name, leaf in flat.items()}),
        "vocabulary.txt": "".join(f"{word}\n" for word in tokenizer.words).encode(),
        "accuracy.json": _json(accuracy),
    }
    card = {
        "format": FORMAT,
        "encoder": model.config.to_dict(),
        "precision": precision,
        "recipe": dict(recipe),
        "sha256": {name: hashlib.sha256(content[name]).hexdigest() for name in FILES},
    }
    # Last of all: until then the folder holds no export, or one whose checksums tell of the other.
    content["config.json"] = _json(card)
    write_files(folder, content)


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
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        card = json.loads(_read(folder / "config.json"))
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise InputError(f"it is not a model of the format {FORMAT}")
        config = EncoderConfig.from_dict(card["encoder"])
        known = {name: str(card["sha256"][name]) for name in FILES}
    except InputError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the model's file {folder / 'config.json'} is damaged: {error}"
        ) from error
    content = {name: _read(folder / name) for name in FILES}
    for name, checksum in known.items():
        if hashlib.sha256(content[name]).hexdigest() != checksum:
            raise InputError(
                f"the model's file {folder / name} is damaged: its checksum does not match"
            )
    tokenizer = WordTokenizer.parse(content["vocabulary.txt"], folder / "vocabulary.txt")
    if len(tokenizer) != config.vocabulary:
        raise InputError(
            f"the vocabulary of {folder} has {len(tokenizer)} words where the model expects "
            f"{config.vocabulary}"
        )
    try:
        flat = load(content["model.safetensors"])
    except SafetensorError as error:
        raise InputError(
            f"the model's file {folder / 'model.safetensors'} is no safetensors file: {error}"
        ) from error
    if {name: leaf.shape for name, leaf in flat.items()} != _shapes(config):
        raise InputError(f"the parameters in {folder} are not those of its configuration")
    if {leaf.dtype for leaf in flat.values()} - {np.dtype(np.float16), np.dtype(np.float32)}:
        raise InputError(f"the parameters in {folder} must be float16 or float32")
    params = {name: leaf.astype(np.float32) for name, leaf in flat.items()}
    tree = {"params": flax.traverse_util.unflatten_dict(params, sep=".")}
    return Model(config, jax.device_put(tree), tokenizer)


def _shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return every parameter's name and shape."""
    # All blocks are alike, and tracing one of them takes a sixth of the time.
    encoder = AgreementEncoder(dataclasses.replace(config, layers=1))
    template = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    )
    shapes = {}
    for name, leaf in flax.traverse_util.flatten_dict(template, sep=".").items():
        count = config.layers if name.startswith("blocks_0.") else 1
        for layer in range(count):
            shapes[name.replace("blocks_0.", f"blocks_{layer}.", 1)] = leaf.shape
    return shapes


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the model's file {path} cannot be read: {error.strerror or error}"
        ) from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
