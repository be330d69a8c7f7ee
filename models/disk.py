"""Save and load models: ``config.json``, ``model.safetensors`` and a tokenizer in one folder.

The layout is that of the Hugging Face hub. Published architectures are written so that
``transformers`` reads them. An agreement encoder, which that library does not implement, has the
``model_type`` ``jaxflow-encoder``, its words in ``vocab.txt``, and SHA-256 checksums of its
files and sizes in ``config.json``: nothing of it is parsed before its checksum is compared, and no
allocation depends on sizes that a file claims: shapes follow from the bounded configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.files import read_json_object, write_together
from jaxflow.models.config import EncoderConfig, Head
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.decoder_files import decoder_rules
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.hub import bundled_model, bundled_names, from_hub, is_hub_name
from jaxflow.models.model import Model, PublishedConfig
from jaxflow.models.published import image_settings, kind_of, read_published, write_published
from jaxflow.models.subword import ROLES, SubwordTokenizer, read_tokenizer
from jaxflow.models.tensors import (
    COPIES,
    INDEX,
    OPTIONAL_FILES,
    PREFIXES,
    SINGLE,
    Rule,
    Weights,
    has_unread_head,
    not_needed,
    open_weights,
    rules,
    to_ours,
    to_published,
)
from jaxflow.models.tokenizer import WordTokenizer
from jaxflow.models.vit import ViTConfig

Precision = Literal["float16", "float32"]

CONFIG, WORDS, ACCURACY = "config.json", "vocab.txt", "accuracy.json"
ENCODER = "jaxflow-encoder"  # its model_type
#: Names of earlier versions, which are still read: of an export, and of a run's model.
_EXPORT_1, _RUN_1, _RUN_2 = f"{ENCODER}-export-1", f"{ENCODER}-1", f"{ENCODER}-2"
_OLD_CARD, _OLD_PARAMETERS, _OLD_WORDS = "model.json", "params.safetensors", "vocabulary.txt"

_SHOWN = 12  # names that an error lists of each kind


def load(path_or_name: str | os.PathLike[str], *, head: Head | None = None) -> Model:
    """Load a trained model.

    Parameters
    ----------
    path_or_name
        A folder with ``config.json`` and ``model.safetensors``: what ``jaxflow export`` or
        `save_pretrained` wrote, a published model of BERT, DistilBERT, RoBERTa, GPT-2 or ViT, or a
        run, as ``jaxflow train`` leaves it, with the model in its folder ``model``. Or, as text,
        the name of the bundled model, ``"agreement"``, or of one on the Hugging Face hub:
        ``"bert-base-uncased"``. A folder of such a name is given as ``"./agreement"`` or a `Path`.
    head
        The head to read of a published model: ``none``, ``classification``, ``masked-lm`` or
        ``lm``; None takes the one that its configuration names, or whose tensors are there. A head
        of another kind (token classification, question answering) is left out with a warning.

    Returns
    -------
    Model
        Parameters (float32), configuration and tokenizer, callable on tokens.

    Raises
    ------
    InputError
        If there is no finished model, its files are damaged or not of these kinds, or the hub
        cannot be reached.
    """
    try:
        return _load(path_or_name, head)
    except OSError as error:  # a name that no file can have, a folder that may not be read
        raise InputError(
            f"no trained model at {path_or_name}: {error.strerror or error}"
        ) from error


def _load(path_or_name: str | os.PathLike[str], head: Head | None) -> Model:
    path = Path(path_or_name)
    if isinstance(path_or_name, str):
        if path_or_name in bundled_names():
            return read_folder(bundled_model(path_or_name), head)
        if not path.exists() and is_hub_name(path_or_name):
            return read_folder(from_hub(path_or_name), head)
    for folder in (path, path / "model"):
        if holds_model(folder):
            return read_folder(folder, head)
    raise InputError(
        f"no trained model at {path}: expected the folder of a run that jaxflow train finished "
        "or jaxflow export wrote, or of a published model with config.json and "
        f"model.safetensors, or the name of a bundled model: {' or '.join(bundled_names())}"
    )


def holds_model(folder: Path) -> bool:
    """Return whether a folder holds a model, damaged or not; a run holds one in ``model``."""
    if any((folder / name).is_file() for name in (SINGLE, INDEX, _OLD_CARD)):
        return True
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return '"model_type"' in text or _EXPORT_1 in text


def read_folder(folder: Path, head: Head | None = None) -> Model:
    """Read the model of a folder; see `load`."""
    if (folder / _OLD_CARD).is_file() and not (folder / CONFIG).is_file():
        return _read_encoder(folder, _json(folder / _OLD_CARD), _OLD_CARD)
    fields = _json(folder / CONFIG)
    if fields.get("model_type") == ENCODER or fields.get("format") == _EXPORT_1:
        return _read_encoder(folder, fields, CONFIG)
    return _read_published(folder, fields, head)


def _json(path: Path) -> dict[str, Any]:
    return read_json_object(path, "the model's file")


def save(
    folder: Path,
    model: Model,
    *,
    precision: Precision = "float32",
    recipe: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to a folder, atomically.

    Files of an earlier model there are replaced, others are left alone.

    Parameters
    ----------
    folder
        Created with its parents if it is not there.
    model
        An agreement encoder, or any other as `save_pretrained` writes it.
    precision
        Of the stored parameters of an agreement encoder; reading turns them into float32.
    recipe, accuracy
        How an agreement encoder was trained, and its accuracy: JSON-ready, for ``config.json`` and
        ``accuracy.json``.

    Raises
    ------
    InputError
        If a parameter is too large for the precision, or the folder cannot be written.
    """
    if not isinstance(model.config, EncoderConfig):
        save_pretrained(folder, model)
        return
    from safetensors.numpy import save as tensors_to_bytes

    flat = flax.traverse_util.flatten_dict(rounded(model, precision).params["params"], sep=".")
    tensors = {name: np.asarray(leaf).astype(precision) for name, leaf in flat.items()}
    content = {SINGLE: tensors_to_bytes(tensors), WORDS: model.whole_words.to_bytes()}
    if accuracy is not None:
        content[ACCURACY] = _bytes(accuracy)
    sizes = model.config.to_dict()
    fields: dict[str, Any] = {
        "model_type": ENCODER,
        "architectures": [AgreementEncoder.__name__],
        "dtype": precision,
        "encoder": sizes,
    }
    if recipe is not None:
        fields["recipe"] = dict(recipe)
    # The sizes too: another number of heads or a causal mask would fit the same parameters.
    sealed = {**content, "encoder": _canonical(sizes)}
    fields["sha256"] = {name: _checksum(data) for name, data in sealed.items()}
    _write(folder, content | {CONFIG: _bytes(fields)})


def rounded(model: Model, precision: Precision) -> Model:
    """Return the model that is read from files of a precision.

    Raises `InputError` if a parameter is too large for the precision.
    """
    with np.errstate(over="ignore"):  # an error below, not a warning here
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf).astype(precision).astype(np.float32), model.params
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise InputError(f"the model's parameters must be finite numbers that {precision} can hold")
    return dataclasses.replace(model, params=params)


def save_pretrained(folder: Path, model: Model) -> None:
    """Write a model as the ``transformers`` library reads it.

    ``config.json``, ``model.safetensors``, and the tokenizer's or the image processor's files.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, which that library does not implement, or the folder
        cannot be written.
    """
    from safetensors.numpy import save as tensors_to_bytes

    config = model.config
    if isinstance(config, EncoderConfig):
        raise InputError(
            "only BERT, DistilBERT, RoBERTa, GPT-2 and ViT can be written for transformers, got an "
            "agreement encoder: use jaxflow export"
        )
    if isinstance(model.tokenizer, WordTokenizer):
        raise InputError("a tokenizer of whole words cannot be written for transformers")
    flat = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    prefix = "" if config.head == "none" else PREFIXES[kind_of(config)]
    tensors = {}
    for rule in _rules(config):
        values = np.asarray(flat[rule.ours])
        parts = to_published(rule, values if rule.layer is None else values[rule.layer])
        for name, part in zip(rule.published, parts, strict=True):
            tensors[f"{prefix if rule.backbone else ''}{name}"] = part
    for copy, name in COPIES.items():
        if name in tensors and f"{copy.removesuffix('bias')}weight" in tensors:  # an untied decoder
            tensors[copy] = tensors[name]
    content = {SINGLE: tensors_to_bytes(tensors, metadata={"format": "pt"})}
    if isinstance(config, ViTConfig):
        content["preprocessor_config.json"] = _bytes(image_settings(config))
    if isinstance(model.tokenizer, SubwordTokenizer):
        content["tokenizer.json"] = model.tokenizer.backend.to_str(pretty=True).encode()
        content["tokenizer_config.json"] = _bytes(_token_settings(model.tokenizer, config))
        if model.tokenizer.chat_template is not None:
            content["chat_template.jinja"] = model.tokenizer.chat_template.encode()
    _write(folder, content | {CONFIG: _bytes(write_published(config))})


def _token_settings(tokenizer: SubwordTokenizer, config: Any) -> dict[str, Any]:
    named = {
        f"{role}_token": tokenizer.decode([tokenizer.special[role]])[0]
        for role in ROLES
        if role in tokenizer.special
    }
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.positions,
        "model_input_names": inputs if tokenizer.segments else inputs[::2],
        **{**tokenizer.named, **named},
    }


def _write(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write a model's files, ``config.json`` last: until then the folder holds no whole model."""
    old = (*OPTIONAL_FILES, ACCURACY, _OLD_CARD, _OLD_PARAMETERS, _OLD_WORDS)
    stale = [name for name in old if name not in content]
    write_together(Path(folder), content, remove=[CONFIG, *stale])


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_encoder(folder: Path, card: dict[str, Any], name: str) -> Model:
    """Read an agreement encoder, of this version's layout or of those before it."""
    path = folder / name
    parameters, words, sizes = SINGLE, WORDS, "encoder"
    if card.get("format") == _RUN_1:
        raise InputError(
            f"{folder} is of an earlier version of jaxflow: delete it and give the command "
            "that trained it again, which writes the model anew from its last checkpoint"
        )
    if name == _OLD_CARD:
        if card.get("format") != _RUN_2:
            raise InputError(f"{folder} is not a model of the format {_RUN_2}")
        parameters, words, sizes = _OLD_PARAMETERS, _OLD_WORDS, "config"
    elif card.get("format") == _EXPORT_1:
        words = _OLD_WORDS
    try:
        sealed = dict(card["sha256"])
        known = {file: str(sealed[file]) for file in (parameters, words)}
        if ACCURACY in sealed:
            known[ACCURACY] = str(sealed[ACCURACY])
        if card.get("format") != _EXPORT_1 and sealed[sizes] != _checksum(_canonical(card[sizes])):
            raise InputError(f"the model's file {path} is damaged: its sizes have another checksum")
        fields = card[sizes]
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the model's file {path} is damaged: it lacks {error}") from error
    try:
        config = EncoderConfig.from_dict(fields)
    except InputError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    content = {file: _read_sealed(folder / file, known[file]) for file in known}
    tokenizer = WordTokenizer.parse(content[words], folder / words)
    if len(tokenizer) != config.vocabulary:
        raise InputError(
            f"the vocabulary of {folder} has {len(tokenizer)} words where the model expects "
            f"{config.vocabulary}"
        )
    params = _encoder_parameters(folder / parameters, content[parameters], config)
    return Model(config, params, tokenizer)


def _read_sealed(path: Path, checksum: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the model's file {path} cannot be read: {reason}") from error
    if _checksum(content) != checksum:
        raise InputError(f"the model's file {path} is damaged: its checksum does not match")
    return content


def _encoder_parameters(path: Path, content: bytes, config: EncoderConfig) -> Any:
    """Return the parameters of a safetensors file's content as float32 variables."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as tensors_from_bytes

    kinds = f"the parameters in {path.parent} must be float16 or float32"
    try:
        flat = tensors_from_bytes(content)
    except LookupError as error:  # a type of numbers that NumPy does not have
        raise InputError(f"{kinds}, got {error}") from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"the model's file {path} is no safetensors file: {error}") from error
    if {name: leaf.shape for name, leaf in flat.items()} != _shapes(config):
        raise InputError(f"the parameters in {path.parent} are not those of its configuration")
    if {leaf.dtype for leaf in flat.values()} - {np.dtype(np.float16), np.dtype(np.float32)}:
        raise InputError(kinds)
    params = {name: leaf.astype(np.float32) for name, leaf in flat.items()}
    return jax.device_put({"params": flax.traverse_util.unflatten_dict(params, sep=".")})


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


def _read_published(folder: Path, fields: dict[str, Any], head: Head | None) -> Model:
    """Read a model of one of the published architectures; `fields` are its ``config.json``."""
    images, generation = (folder / f"{name}_config.json" for name in ("preprocessor", "generation"))
    if generation.is_file() and "eos_token_id" in (settings := _json(generation)):
        fields = {**fields, "eos_token_id": settings["eos_token_id"]}
    with open_weights(folder) as weights:
        kind = str(fields.get("model_type"))
        names = _without_prefix(PREFIXES.get(kind, ""), weights)
        try:
            config = read_published(
                fields,
                head=head,
                classes=_classes(weights, names),
                tensors=names,
                images=_json(images) if images.is_file() else None,
            )
        except InputError as error:
            raise InputError(f"the model in {folder} cannot be read: {error}") from error
        if head is None and config.head == "none" and has_unread_head(names):
            named = fields.get("architectures") or ["of another kind"]
            warnings.warn(
                f"the head of the model in {folder} ({named[0]}) is not read here: the model is "
                "loaded without it, for its attention alone",
                stacklevel=4,
            )
        config = _untied(config, weights, names)
        wanted = _rules(config)
        _check(folder, kind, wanted, weights, names)
        flat: dict[str, Any] = {}
        stacks: dict[str, np.ndarray] = {}
        for rule in wanted:
            values = to_ours(rule, [weights.read(names[name]) for name in rule.published])
            if rule.layer is not None:
                if rule.layer == 0:
                    stacks[rule.ours] = np.empty((config.layers, *values.shape), np.float32)
                stacks[rule.ours][rule.layer] = values
                continue
            # Wait for each copy, so that not all host copies are in memory at once.
            flat[rule.ours] = jax.block_until_ready(jax.device_put(values))
        for name in list(stacks):
            flat[name] = jax.block_until_ready(jax.device_put(stacks.pop(name)))
    tree = {"params": flax.traverse_util.unflatten_dict(flat, sep=".")}
    tokenizer = None if isinstance(config, ViTConfig) else _fitting(folder, config)
    return Model(config, tree, tokenizer)


def _rules(config: PublishedConfig) -> list[Rule]:
    return list(decoder_rules(config)) if isinstance(config, DecoderConfig) else rules(config)


def _without_prefix(prefix: str, weights: Weights) -> dict[str, str]:
    """Map the tensors' names in the rules to those in the files.

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
    """Return the configuration with an untied decoder where the checkpoint has one.

    Many checkpoints hold the word embeddings a second time: their values are compared.
    """
    if not getattr(config, "tied", False):
        return config
    if config.head not in ("masked-lm", "lm"):
        return config
    own = dataclasses.replace(config, tied=False)
    (decoder,) = (rule for rule in _rules(own) if rule.ours.endswith("decoder"))
    (word,) = (rule for rule in _rules(own) if rule.ours == "word.embedding")
    found = [names.get(rule.published[0]) for rule in (decoder, word)]
    if None in found or weights.shapes[str(found[0])] != weights.shapes[str(found[1])]:
        return config
    decoder_values, word_values = (weights.read(str(name)) for name in found)
    return config if np.array_equal(decoder_values, word_values) else own


def _check(
    folder: Path, kind: str, wanted: Sequence[Rule], weights: Weights, names: dict[str, str]
) -> None:
    needed = {name: shape for rule in wanted for name, shape in rule.needed.items()}
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


def _fitting(folder: Path, config: Any) -> SubwordTokenizer | None:
    """Read the tokenizer of a folder: every word must have a row of the model's table."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is None or tokenizer.largest_id < config.vocabulary:
        return tokenizer
    words = tokenizer.backend.get_vocab(with_added_tokens=False).values()
    if max(words, default=-1) >= config.vocabulary:
        raise InputError(
            f"the tokenizer of {folder} must number its {len(tokenizer)} entries from 0 to "
            f"{config.vocabulary - 1}, the model's vocabulary, got {tokenizer.largest_id}"
        )
    # Tokens that were added and the model never learnt: only a text that spells one has no row.
    rows = {role: row for role, row in tokenizer.special.items() if row < config.vocabulary}
    return dataclasses.replace(tokenizer, special=MappingProxyType(rows))
