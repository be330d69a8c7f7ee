"""Models on disk: one folder with the parameters, the configuration and the vocabulary."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.models.config import EncoderConfig, Head
from jaxflow.models.encoder_files import checksums, packed, read_sealed, unpacked
from jaxflow.models.exported import is_export, read_export
from jaxflow.models.hub import from_hub, is_hub_name
from jaxflow.models.model import Model
from jaxflow.models.pretrained import is_pretrained, read_pretrained
from jaxflow.models.shipped import shipped_model, shipped_names

__all__ = ["load", "save"]

FORMAT = "jaxflow-encoder-2"
CARD = "model.json"
#: The files that the card has the checksums of: parameters and words.
FILES = ("params.safetensors", "vocabulary.txt")


def save(folder: Path, model: Model) -> None:
    """Write a model to a folder, replacing the one that is there.

    It is written beside and renamed, so that no reader ever sees half of it.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    content = dict(zip(FILES, packed(model), strict=True))
    sizes = model.config.to_dict()
    # The sizes too: other heads or a causal mask would fit the same parameters.
    sealed = checksums({**content, "config": _canonical(sizes)})
    card = {"format": FORMAT, "config": sizes, "sha256": sealed}
    content[CARD] = (json.dumps(card, indent=2) + "\n").encode()
    write_together(Path(folder), content, remove=[CARD])


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
    folder = path if (path / CARD).is_file() else path / "model"
    if not (folder / CARD).is_file():
        raise InputError(
            f"no trained model at {path}: expected the folder of a run that jaxflow train finished "
            "or jaxflow export wrote, or of a published model with config.json and "
            "model.safetensors, or the name of a model that comes with jaxflow: "
            f"{' or '.join(shipped_names())}"
        )
    return _read_run(folder)


def _read_run(folder: Path) -> Model:
    path = folder / CARD
    try:
        card = json.loads(path.read_bytes())
        if isinstance(card, dict) and card.get("format") == "jaxflow-encoder-1":
            raise InputError(
                f"{folder} is of an earlier version of jaxflow: delete it and give the command "
                "that trained it again, which writes the model anew from its last checkpoint"
            )
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise InputError(f"{folder} is not a model of the format {FORMAT}")
        known = {name: str(card["sha256"][name]) for name in FILES}
        if card["sha256"]["config"] != checksums({"config": _canonical(card["config"])})["config"]:
            raise ValueError("its configuration has another checksum")
    except InputError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the model card {path} is damaged: {error}") from error
    try:
        config = EncoderConfig.from_dict(card["config"])
    except InputError as error:
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    content = list(read_sealed(folder, known).items())
    return unpacked(config, folder, content[0], content[1])


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
