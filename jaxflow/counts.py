"""Numbers of things: of steps, samples, tokens, layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxflow.errors import InputError

__all__ = ["check_count"]


def check_count(name: str, value: Any) -> int:
    """Return a positive whole number, NumPy's too, as Python's; `InputError` for all else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)
