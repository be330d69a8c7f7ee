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
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.exported import is_export, read_export
from jaxflow.models.model import Model
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

    folder = Path(folder).absolute()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    host = jax.tree.map(np.asarray, model.params)
    try:
        beside.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(beside / "params", host)
        model.tokenizer.save(beside / "vocabulary.txt")
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


def load(path_or_name: str | os.PathLike[str]) -> Model:
    """Load a trained model.

    Parameters
    ----------
    path_or_name
        A run's folder, as ``jaxflow train`` leaves it, the ``model`` folder inside, a folder that
        ``jaxflow export`` wrote, or, as text, the name of a model that comes with the package:
        ``"agreement"``. A folder of such a name is given as ``"./agreement"`` or as a `Path`.

    Returns
    -------
    Model
        Parameters, configuration and tokenizer, callable on tokens.

    Raises
    ------
    InputError
        If there is no finished model, or its files are damaged or not this project's.
    """
    if isinstance(path_or_name, str) and path_or_name in shipped_names():
        return read_export(shipped_model(path_or_name))
    path = Path(path_or_name)
    if is_export(path):
        return read_export(path)
    folder = path if (path / "model.json").is_file() else path / "model"
    if not (folder / "model.json").is_file():
        raise InputError(
            f"no trained model at {path}: expected the folder of a run that jaxflow train finished "
            "or jaxflow export wrote, or the name of a model that comes with jaxflow: "
            f"{' or '.join(shipped_names())}"
        )
    import orbax.checkpoint as ocp

    try:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the model card {folder / 'model.json'} is damaged: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise InputError(f"{folder} is not a model of the format {FORMAT}")
    config = EncoderConfig.from_dict(card.get("config", {}))
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
