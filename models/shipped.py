"""The models that come with the package: the one place that knows where they lie."""

from __future__ import annotations

from pathlib import Path

from jaxflow.errors import InputError

__all__ = ["DEFAULT", "shipped_model", "shipped_names"]

FOLDER = Path(__file__).parent / "shipped"

#: The model that is used where none is named.
DEFAULT = "agreement"


def shipped_names() -> tuple[str, ...]:
    """Return the models' names, in alphabetical order."""
    return tuple(sorted(card.parent.name for card in FOLDER.glob("*/config.json")))


def shipped_model(name: str = DEFAULT) -> Path:
    """Return the folder of a model that comes with the package.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in shipped_names():
        raise InputError(
            f"no model {name!r} comes with this installation, which has "
            f"{', '.join(shipped_names()) or 'none'}: train one with 'jaxflow train --out RUN' (a "
            "few minutes) and name it with '--run RUN'"
        )
    return FOLDER / name
