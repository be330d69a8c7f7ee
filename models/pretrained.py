"""Published models: a folder as the Hugging Face hub has it, read and written."""

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
from jaxflow.models.architectures import init
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import Head
from jaxflow.models.files import write_files
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import Model
from jaxflow.models.names import (
    COPIES,
    PREFIXES,
    Rule,
    not_needed,
    rules,
    to_ours,
    to_published,
)
from jaxflow.models.published import kind_of, read_published
from jaxflow.models.publishing import write_published
from jaxflow.models.subword import ROLES, SubwordTokenizer, read_tokenizer
from jaxflow.models.tokenizer import WordTokenizer
from jaxflow.models.vit import ViTConfig
from jaxflow.models.weights import Weights, open_weights

__all__ = ["is_pretrained", "read_pretrained", "save_pretrained", "with_head"]

_MODEL_FILES = (
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
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


def with_head(
    model: Model, head: Head, labels: Sequence[str] = (), seed: int = 0, **changes: Any
) -> Model:
    """Put a fresh head on a model, for fine-tuning.

    Parameters
    ----------
    model
        Whose encoder is kept; what of its head fits the new one is kept too.
    head
        The head wanted.
    labels
        The classes' names, for ``classification``.
    seed
        Of the fresh parameters.
    **changes
        Other fields of the configuration, such as dropout rates.

    Returns
    -------
    Model
        A new one; the model given is left as it is.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, the architecture has no such head, or a field is
        unknown or impossible.
    """
    if not isinstance(model.config, BertConfig | Gpt2Config | ViTConfig):
        raise InputError("an agreement encoder has one head alone: train another one")
    if isinstance(model.config, BertConfig) and head != "none":
        changes["pooler"] = False  # a head has its own, or none
    try:
        config = dataclasses.replace(model.config, head=head, labels=tuple(labels), **changes)
    except TypeError as error:
        raise InputError(f"the model's configuration does not fit: {error}") from error
    fresh = flax.traverse_util.flatten_dict(init(config, seed)["params"], sep=".")
    kept = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    flat = {
        name: kept[name] if name in kept and kept[name].shape == leaf.shape else leaf
        for name, leaf in fresh.items()
    }
    tree = {"params": flax.traverse_util.unflatten_dict(flat, sep=".")}
    return Model(config, tree, model.tokenizer)


def save_pretrained(folder: Path, model: Model) -> None:
    """Write a model as the ``transformers`` library reads it.

    ``config.json``, ``model.safetensors``, and the tokenizer's or the image processor's files.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, whose like that library has not, or the folder cannot
        be written.
    """
    from safetensors.numpy import save

    config = model.config
    if not isinstance(config, BertConfig | Gpt2Config | ViTConfig):
        raise InputError(
            "only BERT, DistilBERT, RoBERTa, GPT-2 and ViT can be written for transformers, got an "
            "agreement encoder: use jaxflow export"
        )
    if isinstance(model.tokenizer, WordTokenizer):
        raise InputError("a tokenizer of whole words cannot be written for transformers")
    flat = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    prefix = "" if config.head == "none" else PREFIXES[kind_of(config)]
    tensors = {}
    for rule in rules(config):
        parts = to_published(rule, np.asarray(flat[rule.ours]))
        for name, part in zip(rule.published, parts, strict=True):
            tensors[f"{prefix if rule.backbone else ''}{name}"] = part
    for copy, name in COPIES.items():
        if name in tensors and f"{copy.removesuffix('bias')}weight" in tensors:  # a decoder apart
            tensors[copy] = tensors[name]
    content = {"model.safetensors": save(tensors, metadata={"format": "pt"})}
    if isinstance(config, ViTConfig):
        content["preprocessor_config.json"] = _bytes(_image_settings(config))
    if isinstance(model.tokenizer, SubwordTokenizer):
        content["tokenizer.json"] = model.tokenizer.backend.to_str(pretty=True).encode()
        content["tokenizer_config.json"] = _bytes(_token_settings(model.tokenizer, config))
    # Last of all: until then the folder holds no model.
    content["config.json"] = _bytes(write_published(config))
    # What a reader would take for the new model's.
    write_files(Path(folder), content, replaced=_MODEL_FILES)


def _image_settings(config: ViTConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": config.image[0], "width": config.image[1]},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def _token_settings(tokenizer: SubwordTokenizer, config: Any) -> dict[str, Any]:
    named = {
        f"{role}_token": tokenizer.decode([tokenizer.special[role]])[0]
        for role in ROLES
        if role in tokenizer.special
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.positions,
        **named,
    }


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
