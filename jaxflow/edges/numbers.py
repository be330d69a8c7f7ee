"""Numbers in the names of edge weights."""

from __future__ import annotations

import re

from jaxflow.errors import InputError

__all__ = ["share_of"]


def share_of(name: str, written: str, *, whole: bool) -> float:
    """Read a share that is written in decimals, such as ``0.25``.

    Parameters
    ----------
    name
        Of the family, for the error.
    written
        What stands behind it.
    whole
        Whether 1 is one.

    Raises
    ------
    InputError
        If it is no such number.
    """
    wanted = "from 0 to 1" if whole else "of at least 0 and below 1"
    if re.fullmatch(r"[01](\.[0-9]{1,9})?", written, re.ASCII):
        share = float(written)
        if share < 1 or (whole and share == 1):
            return share
    raise InputError(f"{name} must be a share {wanted}, as in {name}-0.5, got {written!r}")
