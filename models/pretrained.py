"""Published models: a folder as the Hugging Face hub has it, read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import Head
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import Model
from jaxflow.models.names import (
    COPIES,
    PREFIXES,
    Rule,
    not_needed,
    rules,
    to_ours,
)
from jaxflow.models.published import read_published
from jaxflow.models.subword import SubwordTokenizer, read_tokenizer
from jaxflow.models.vit import ViTConfig
from jaxflow.models.weights import Weights, open_weights

__all__ = ["is_pretrained", "read_pretrained"]

_SHOWN = 12  # names that an error lists of each kind


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a published model, be it damaged."""
    try:
        return '"model_type"' in (folder / "config.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def read_pretrained(folder: Path, head: Head | None = None) -> Model:
    """Read a model of one of the architectures that are built here.

    Parameters
    ----------
    folder
        With ``config.json``, ``model.safetensors`` (or its shards and their index) and the
        tokenizer's files, as the ``transformers`` library saves them.
    head
        What is to be read off the model; None takes what ``config.json`` names. Tensors of other
        heads, which many checkpoints hold, are passed over.

    Returns
    -------
    Model
        With parameters in float32.

    Raises
    ------
    InputError
        If a file is missing or damaged, the architecture is not built here, or tensors are
        missing, unknown or of another shape; all of these are listed.
    """
    fields = _json(folder / "config.json")
    images = folder / "preprocessor_config.json"
    with open_weights(folder) as weights:
        kind = str(fields.get("model_type"))
        names = _without_prefix(PREFIXES.get(kind, ""), weights)
        try:
            config = read_published(
                fields,
                head=head,
                classes=_classes(weights, names),
                pooler="pooler.dense.weight" in names,
                images=_json(images) if images.is_file() else None,
            )
        except InputError as error:
            raise InputError(f"the model in {folder} cannot be read: {error}") from error
        config = _untied(config, weights, names)
        wanted = rules(config)
        _check(folder, kind, wanted, weights, names)
        flat = {}
        for rule in wanted:
            values = to_ours(rule, [weights.read(names[name]) for name in rule.published])
            # Waited for, lest what is still to be copied piles up in memory.
            flat[rule.ours] = jax.block_until_ready(jax.device_put(values))
    tree = {"params": flax.traverse_util.unflatten_dict(flat, sep=".")}
    tokenizer = None if isinstance(config, ViTConfig) else read_tokenizer(folder)
    _check_vocabulary(folder, config, tokenizer)
    return Model(config, tree, tokenizer)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the model's file {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"the model's file {path} must be one JSON object")
    return found


def _without_prefix(prefix: str, weights: Weights) -> dict[str, str]:
    """Map the tensors' names as rules have them to those in the files.

    Norms of the oldest checkpoints have gamma and beta for weight and bias.
    """
    names: dict[str, str] = {}
    for name in weights.shapes:
        plain = name.removeprefix(prefix)
        if plain.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
            plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight")
            plain = plain.replace("LayerNorm.beta", "LayerNorm.bias")
        if plain in names:
            raise InputError(f"a tensor must have one name, got {names[plain]} and {name}")
        names[plain] = name
    return names | {name: names[copy] for copy, name in COPIES.items() if copy in names}


def _classes(weights: Weights, names: dict[str, str]) -> int | None:
    for plain in ("classifier.weight", "classifier.out_proj.weight", "score.weight"):
        if plain in names and weights.shapes[names[plain]]:
            return weights.shapes[names[plain]][0]
    return None


def _untied(config: Any, weights: Weights, names: dict[str, str]) -> Any:
    """Return the configuration with a decoder of its own where the checkpoint has one.

    Many checkpoints hold the word embeddings a second time; only values can tell.
    """
    if not (isinstance(config, BertConfig | Gpt2Config) and config.tied):
        return config
    if config.head not in ("masked-lm", "lm"):
        return config
    own = dataclasses.replace(config, tied=False)
    (decoder,) = (rule for rule in rules(own) if rule.ours.endswith("decoder"))
    (word,) = (rule for rule in rules(own) if rule.ours == "word.embedding")
    found = [names.get(rule.published[0]) for rule in (decoder, word)]
    if None in found or weights.shapes[str(found[0])] != weights.shapes[str(found[1])]:
        return config
    decoder_values, word_values = (weights.read(str(name)) for name in found)
    return config if np.array_equal(decoder_values, word_values) else own


def _check(
    folder: Path, kind: str, wanted: Sequence[Rule], weights: Weights, names: dict[str, str]
) -> None:
    needed = {name: rule.shape for rule in wanted for name in rule.published}
    missing = sorted(needed.keys() - names.keys())
    extra = sorted(
        names[name] for name in names.keys() - needed.keys() if not not_needed(kind, name)
    )
    other = [
        f"{names[name]} {list(weights.shapes[names[name]])} instead of {list(shape)}"
        for name, shape in sorted(needed.items())
        if name in names and weights.shapes[names[name]] != shape
    ]
    found = {"missing": missing, "not of this model": extra, "of another shape": other}
    parts = [
        f"{what}: {', '.join(listed[:_SHOWN])}"
        + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
        for what, listed in found.items()
        if listed
    ]
    if parts:
        raise InputError(
            f"the tensors in {folder} are not those of its config.json ({'; '.join(parts)})"
        )


def _check_vocabulary(folder: Path, config: Any, tokenizer: SubwordTokenizer | None) -> None:
    # A table may have rows to spare, for the sake of a round number; words to spare have no row.
    if tokenizer is None:
        return
    if len(tokenizer) > config.vocabulary:
        raise InputError(
            f"the tokenizer of {folder} has {len(tokenizer)} entries where the model has "
            f"{config.vocabulary}"
        )
    if tokenizer.largest_id >= config.vocabulary:  # few entries may have large numbers
        raise InputError(
            f"the tokenizer of {folder} must number its entries from 0 to {config.vocabulary - 1}, "
            f"the model's vocabulary, got {tokenizer.largest_id}"
        )
