"""Find models by name: bundled with the package, or on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from jaxflow.errors import InputError
from jaxflow.models.tensors import OPTIONAL_FILES

BUNDLED = Path(__file__).parent / "bundled"

#: The model that is used where none is named.
DEFAULT = "agreement"

_FILES = ["config.json", "model.safetensors", "model-*.safetensors", *OPTIONAL_FILES]


def bundled_names() -> tuple[str, ...]:
    """Return the names of the bundled models, in alphabetical order."""
    return tuple(sorted(card.parent.name for card in BUNDLED.glob("*/config.json")))


def bundled_model(name: str = DEFAULT) -> Path:
    """Return the folder of a bundled model.

    Raises `InputError` if there is none of that name.
    """
    if name not in bundled_names():
        raise InputError(
            f"no model {name!r} comes with this installation, which has "
            f"{', '.join(bundled_names()) or 'none'}: train one with 'jaxflow train --out RUN' (a "
            "few minutes) and name it with '--run RUN'"
        )
    return BUNDLED / name


def is_hub_name(name: str) -> bool:
    """Return whether a text has the form of a name on the hub: ``name`` or ``owner/name``."""
    return re.fullmatch(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", name) is not None


def from_hub(name: str) -> Path:
    """Fetch a model from the hub, or find it in the hub library's cache, and return its folder.

    Raises `InputError` if the hub has no such model, or cannot be reached and the cache does not
    have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the library and those it is built on raise many kinds here
        if isinstance(error, GatedRepoError):
            reason = "the hub gives it only to those who have agreed to its terms and are logged in"
        elif isinstance(error, RepositoryNotFoundError):
            reason = "the hub has none of that name, or it is not public"
        elif isinstance(error, HFValidationError):
            reason = "the hub has no names of that form"
        else:
            reason = "the hub cannot be reached and its cache on this machine has none"
        raise InputError(
            f"no trained model at {name}: there is no such folder, none of that name comes with "
            f"jaxflow ({', '.join(bundled_names())}), and {reason}; on a machine that is "
            f"connected, fetch one with 'hf download {name}' and give its folder"
        ) from error
