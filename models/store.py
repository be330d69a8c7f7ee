"""Models on disk: one folder with the parameters, the configuration and the vocabulary."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.config import EncoderConfig, Head
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.exported import is_export, read_export
from jaxflow.models.hub import from_hub, is_hub_name
from jaxflow.models.model import Model
from jaxflow.models.pretrained import is_pretrained, read_pretrained
from jaxflow.models.shipped import shipped_model, shipped_names
from jaxflow.models.tokenizer import WordTokenizer

__all__ = ["load", "save"]

FORMAT = "jaxflow-encoder-1"


def _digest(params: Any) -> str:
    """Hash every parameter's path and bytes, so that damage on disk cannot pass as a model."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _fingerprint(folder: Path) -> str:
    """Hash the parameters' files and the vocabulary as they lie on disk."""
    digest = hashlib.sha256()
    files = [path for path in (folder / "params").rglob("*") if path.is_file()]
    for path in [*sorted(files), folder / "vocabulary.txt"]:
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def save(folder: Path, model: Model) -> None:
    """Write a model to a folder, replacing the one that is there.

    It is written beside and renamed, so that no reader ever sees half of it.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    import orbax.checkpoint as ocp

    tokenizer = model.tokenizer
    if not isinstance(model.config, EncoderConfig) or not isinstance(tokenizer, WordTokenizer):
        raise InputError("only an agreement encoder is saved so: use save_pretrained for others")
    folder = Path(folder).absolute()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    host = jax.tree.map(np.asarray, model.params)
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a killed process of the same number
        beside.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(beside / "params", host)
        tokenizer.save(beside / "vocabulary.txt")
        card = {
            "format": FORMAT,
            "config": model.config.to_dict(),
            "digest": _digest(host),
            "files": _fingerprint(beside),
        }
        (beside / "model.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(aside)
        beside.rename(folder)
    except OSError as error:
        raise InputError(f"the model cannot be written to {folder}: {error}") from error
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(beside, ignore_errors=True)


def load(path_or_name: str | os.PathLike[str], *, head: Head | None = None) -> Model:
    """Load a trained model.

    Parameters
    ----------
    path_or_name
        A folder: a run, as ``jaxflow train`` leaves it, or the ``model`` folder inside; what
        ``jaxflow export`` wrote; or a published model of BERT, DistilBERT, RoBERTa, GPT-2 or ViT,
        with ``config.json`` and ``model.safetensors``. Or, as text, the name of a model that comes
        with the package, ``"agreement"``, or of one on the Hugging Face hub:
        ``"bert-base-uncased"``. A folder of such a name is given as ``"./agreement"`` or a `Path`.
    head
        What is to be read off a published model: ``none``, ``classification``, ``masked-lm`` or
        ``lm``; None takes what its configuration names.

    Returns
    -------
    Model
        Parameters, configuration and tokenizer, callable on tokens.

    Raises
    ------
    InputError
        If there is no finished model, its files are damaged or not of these kinds, or the hub
        cannot be reached.
    """
    try:
        return _load(path_or_name, head)
    except OSError as error:  # a name that no file can have, a folder that may not be looked at
        raise InputError(
            f"no trained model at {path_or_name}: {error.strerror or error}"
        ) from error


def _load(path_or_name: str | os.PathLike[str], head: Head | None) -> Model:
    name = path_or_name if isinstance(path_or_name, str) else None
    if name is not None and name in shipped_names():
        return read_export(shipped_model(name))
    path = Path(path_or_name)
    if name is not None and not path.exists() and is_hub_name(name):
        return read_pretrained(from_hub(name), head)
    for folder in (path, path / "model"):
        if is_pretrained(folder):
            return read_pretrained(folder, head)
    if is_export(path):
        return read_export(path)
    folder = path if (path / "model.json").is_file() else path / "model"
    if not (folder / "model.json").is_file():
        raise InputError(
            f"no trained model at {path}: expected the folder of a run that jaxflow train finished "
            "or jaxflow export wrote, or of a published model with config.json and "
            "model.safetensors, or the name of a model that comes with jaxflow: "
            f"{' or '.join(shipped_names())}"
        )
    return _read_run(folder)


def _read_run(folder: Path) -> Model:
    import orbax.checkpoint as ocp

    try:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the model card {folder / 'model.json'} is damaged: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise InputError(f"{folder} is not a model of the format {FORMAT}")
    try:
        config = EncoderConfig.from_dict(card.get("config", {}))
    except InputError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    try:
        # First of all, because what reads the parameters is loud about damaged ones.
        fingerprint = _fingerprint(folder)
    except OSError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    if card.get("files", fingerprint) != fingerprint:
        raise InputError(f"the model in {folder} is damaged: the checksum of its files is another")
    tokenizer = WordTokenizer.load(folder / "vocabulary.txt")
    if len(tokenizer) != config.vocabulary:
        raise InputError(
            f"the vocabulary of {folder} has {len(tokenizer)} words where the model expects "
            f"{config.vocabulary}"
        )
    template = jax.eval_shape(
        AgreementEncoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), template
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata((folder / "params").absolute()).item_metadata
            # Orbax finds another shape too, but prints what its threads were doing.
            if stored is None or _shapes(stored.tree) != _shapes(template):
                raise InputError(f"the parameters in {folder} are not those of its configuration")
            params = checkpointer.restore((folder / "params").absolute(), template)
    except InputError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the parameters in {folder} cannot be read: {reason}") from error
    if _digest(params) != card.get("digest"):
        raise InputError(f"the parameters in {folder} are damaged: their checksum does not match")
    return Model(config, params, tokenizer)
