"""Which model a command is to use: a run's, a published one's, or the one that comes along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.models import Model

__all__ = ["named_model"]


def named_model(run: str | Path | None, model: str | None) -> Model:
    """Load the model of a run's folder, or a published one by its folder or name on the hub.

    Raises
    ------
    InputError
        If both are given, or there is no such model.
    """
    from jaxflow.models import load
    from jaxflow.models.hub import bundled_model, bundled_names

    if run is not None and model is not None:
        raise InputError(f"expected --run or --model, got both: --run {run} --model {model}")
    if model is not None:
        return load(model)
    if run is None:
        return load(bundled_model())
    # A run is a folder: what is misspelt is not looked for on the hub.
    return load(run if run in bundled_names() else Path(run))
