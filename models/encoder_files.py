"""An agreement encoder as two plain files: parameters as safetensors, and a list of words.

A card beside them, of whatever kind, holds the encoder's sizes and a checksum of each file. Nothing
is looked into before its checksum is compared, and nothing is allocated on a file's word: shapes
follow from the sizes, which are bounded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.model import Model
from jaxflow.models.tokenizer import WordTokenizer

__all__ = ["Precision", "checksums", "packed", "read_sealed", "unpacked"]

Precision = Literal["float16", "float32"]


def packed(model: Model, precision: Precision = "float32") -> tuple[bytes, bytes]:
    """Return a model's parameters, rounded, as a safetensors file, and its words, one a line.

    Raises
    ------
    InputError
        If it is not an agreement encoder.
    """
    from safetensors.numpy import save

    if not isinstance(model.config, EncoderConfig) or not isinstance(
        model.tokenizer, WordTokenizer
    ):
        raise InputError("only an agreement encoder is written so: use save_pretrained for others")
    flat = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    tensors = {name: np.asarray(leaf).astype(precision) for name, leaf in flat.items()}
    return save(tensors), model.tokenizer.to_bytes()


def checksums(content: Mapping[str, bytes]) -> dict[str, str]:
    """Return each file's SHA-256, by its name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}


def read_sealed(folder: Path, expected: Mapping[str, str]) -> dict[str, bytes]:
    """Read files whose checksums are known.

    Raises
    ------
    InputError
        If one is missing or another than it was.
    """
    content = {}
    for name, checksum in expected.items():
        try:
            content[name] = (folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"the model's file {folder / name} cannot be read: {error.strerror or error}"
            ) from error
        if hashlib.sha256(content[name]).hexdigest() != checksum:
            raise InputError(
                f"the model's file {folder / name} is damaged: its checksum does not match"
            )
    return content


def unpacked(
    config: EncoderConfig, folder: Path, parameters: tuple[str, bytes], words: tuple[str, bytes]
) -> Model:
    """Turn what `packed` returned into a model; float16 becomes float32.

    Parameters
    ----------
    config
        The encoder's sizes.
    folder
        Where the files lie, for complaints.
    parameters, words
        Name and content of each file.

    Raises
    ------
    InputError
        If a file is none of these, or does not fit the sizes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    tokenizer = WordTokenizer.parse(words[1], folder / words[0])
    if len(tokenizer) != config.vocabulary:
        raise InputError(
            f"the vocabulary of {folder} has {len(tokenizer)} words where the model expects "
            f"{config.vocabulary}"
        )
    try:
        flat = load(parameters[1])
    except LookupError as error:  # a kind of numbers that NumPy does not have
        raise InputError(
            f"the parameters in {folder} must be float16 or float32, got {error}"
        ) from error
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"the model's file {folder / parameters[0]} is no safetensors file: {error}"
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
