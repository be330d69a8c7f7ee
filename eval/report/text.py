"""How the reports write numbers: two decimals without a leading zero, as the paper's tables do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxflow.eval.stats import Cell

__all__ = [
    "UNDEFINED",
    "accuracy_lines",
    "counts",
    "interval",
    "layer_names",
    "mean_std",
    "probability",
    "short",
]

#: What stands where a number is undefined.
UNDEFINED = "n/a"


def short(value: float, *, sign: bool = False) -> str:
    """Two decimals, ``.69`` or ``-.11``; with `sign` also ``+.02`` (zero has no sign).

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
    """Mean and standard deviation, ``.69±.27``."""
    return UNDEFINED if math.isnan(mean) else f"{short(mean)}±{short(std)}"


def interval(ci95: tuple[float, float]) -> str:
    """Interval, ``[.68, .70]``."""
    return UNDEFINED if math.isnan(ci95[0]) else f"[{short(ci95[0])}, {short(ci95[1])}]"


def probability(p: float) -> str:
    """P-value to three decimals, ``<.001`` below that."""
    if math.isnan(p):
        return UNDEFINED
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def counts(cells: Sequence[Cell], field: str) -> str:
    """Write the `n` or `nan` of a row: one number if all layers agree, else one per layer."""
    values = [str(getattr(cell, field)) for cell in cells]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def layer_names(layers: int) -> list[str]:
    """``L1`` (bottom) to ``L6`` (top)."""
    return [f"L{layer + 1}" for layer in range(layers)]


def accuracy_lines(accuracy: Any, name: str = "accuracy") -> list[str]:
    """One line per number of a (possibly nested) mapping of accuracies and counts."""
    if accuracy is None:
        return []
    if isinstance(accuracy, Mapping):
        lines: list[str] = []
        for key, value in accuracy.items():
            lines += accuracy_lines(value, f"{name}, {key}")
        return lines
    return [f"{name}: {accuracy:.4f}" if isinstance(accuracy, float) else f"{name}: {accuracy}"]
