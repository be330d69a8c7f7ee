"""Format numbers as in the paper's tables, without a leading zero, and values as JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import metadata
from os import PathLike, fspath
from typing import Any

import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.stats import Cell

_PACKAGES = ("jaxflow", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "numba", "networkx")
#: Text of an undefined number.
UNDEFINED = "n/a"


def short(value: float, *, sign: bool = False) -> str:
    """Format a number with two decimals, ``.69`` or ``-.11``; with `sign` also ``+.02``.

    Examples
    --------
    >>> short(0.694), short(-0.11), short(0.02, sign=True), short(-0.001), short(1)
    ('.69', '-.11', '+.02', '.00', '1.00')
    """
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:+.2f}"
    if float(text) == 0 or (text[0] == "+" and not sign):
        text = text[1:]
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def mean_std(mean: float, std: float) -> str:
    """Format a mean and a standard deviation, ``.69±.27``."""
    return UNDEFINED if math.isnan(mean) else f"{short(mean)}±{short(std)}"


def interval(ci95: tuple[float, float]) -> str:
    """Format an interval, ``[.68, .70]``."""
    return UNDEFINED if math.isnan(ci95[0]) else f"[{short(ci95[0])}, {short(ci95[1])}]"


def probability(p: float) -> str:
    """Format a p-value to three decimals, ``<.001`` below that."""
    if math.isnan(p):
        return UNDEFINED
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def counts(cells: Sequence[Cell], field: str) -> str:
    """Format the `n` or `nan` of a row: one number if all layers agree, else one per layer."""
    values = [str(getattr(cell, field)) for cell in cells]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def layer_names(layers: int) -> list[str]:
    """Return the names of layers, ``L1`` (bottom) to ``L6`` (top)."""
    return [f"L{layer + 1}" for layer in range(layers)]


def to_json(value: Any) -> Any:
    """Return the JSON form of a value: None for NaN and infinity, an object for a dataclass.

    Raises `InputError` if something in it has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_json(entry) for entry in value]
    if isinstance(value, PathLike):
        return str(fspath(value))
    raise InputError(
        f"a result must be made of numbers, strings, lists and mappings, got {value!r}"
    )


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON text without NaN literals; `indent` None makes it one line."""
    return json.dumps(to_json(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found
