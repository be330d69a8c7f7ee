"""The model that comes with the package: the one place that knows where it lies."""

from __future__ import annotations

from pathlib import Path

from jaxflow.errors import InputError

__all__ = ["shipped_model"]

FOLDER = Path(__file__).parent / "shipped"


def shipped_model() -> Path:
    """Return the folder of the model that is used where none is named.

    Raises
    ------
    InputError
        If this installation has none.
    """
    if not (FOLDER / "model.json").is_file():
        raise InputError(
            "no model comes with this installation: train one with 'jaxflow train --out RUN' (a "
            "few minutes) and name it with '--run RUN'"
        )
    return FOLDER
