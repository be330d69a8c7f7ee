"""Models by their names on the Hugging Face hub, through its library and cache."""

from __future__ import annotations

import re
from pathlib import Path

from jaxflow.errors import InputError
from jaxflow.models.shipped import shipped_names
from jaxflow.models.weights import OPTIONAL_FILES

__all__ = ["from_hub", "is_hub_name"]

_FILES = ["config.json", "model.safetensors", "model-*.safetensors", *OPTIONAL_FILES]


def is_hub_name(name: str) -> bool:
    """Whether a text has the form of a name on the hub: ``name`` or ``owner/name``."""
    return re.fullmatch(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", name) is not None


def from_hub(name: str) -> Path:
    """Fetch a model, or find it in the library's cache, and return its folder.

    Raises
    ------
    InputError
        If the hub has no such model, or cannot be reached and the cache has it not.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the library and what it stands on raise many kinds here
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
            f"jaxflow ({', '.join(shipped_names())}), and {reason}; on a machine that is "
            f"connected, fetch one with 'hf download {name}' and give its folder"
        ) from error
