"""What figures are drawn from, read back from the files of an evaluation and of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import ENTROPY_ROWS
from jaxflow.eval.paper.tables import Tables
from jaxflow.eval.stats import Cell

__all__ = ["CURVES", "Journey", "read_journey", "read_tables"]

# What looking into JSON of another form than expected may raise.
_SPOILT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

#: The measures of training that are drawn where a run has them, and what they are called.
CURVES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "subject_share": "subject's share",
}


@dataclass(frozen=True, eq=False)
class Journey:
    """How a training run went.

    Attributes
    ----------
    curves
        Measure (`CURVES`) -> its steps and its values, ``[K]`` each.
    held_out
        Split -> the steps at which it was judged and its accuracies, ``[E]`` each.
    """

    curves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    held_out: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]


def read_tables(folder: Path) -> Tables:
    """Read ``tables.json`` back, without the claims.

    Raises
    ------
    InputError
        If the folder has none, or it is not what an evaluation writes.
    """
    path = folder / "tables.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"no tables.json in {folder}: expected a folder that jaxflow reproduce or jaxflow "
            "evaluate wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be the tables of an evaluation: {error}") from error
    try:
        tables = Tables(
            correlations={
                str(target): {str(row): _cells(cells) for row, cells in rows.items()}
                for target, rows in found["tables"].items()
            },
            saturation=_cells(found["saturation"]),
            entropy={row: _cells(found["entropy"][row]) for row in ENTROPY_ROWS},
            sentences=int(found["samples"]),
        )
    except _SPOILT as error:
        raise InputError(
            f"{path} must be the tables of an evaluation, got one that lacks or spoils {error}"
        ) from error
    rows = [cells for table in tables.correlations.values() for cells in table.values()]
    depths = {len(cells) for cells in [*rows, tables.saturation, *tables.entropy.values()]}
    if not rows or len(depths) != 1 or 0 in depths:
        raise InputError(
            f"{path} must have rows of the same number of layers, got rows of "
            f"{sorted(depths) if rows else 'no target'}"
        )
    return tables


def read_journey(run: Path) -> Journey:
    """Read a run's ``metrics.jsonl``.

    Raises
    ------
    InputError
        If the run has none, or it holds nothing that can be drawn.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"no metrics.jsonl in {run}: expected a run's folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    held_out: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = _step(entry["step"])
            for name in CURVES:
                if name in entry:
                    curves[name].append((step, float(entry[name])))
            for split, value in entry.get("held_out", {}).items():
                point = (step, float(value))
                held_out.setdefault(split, []).append(point)
        except _SPOILT as error:
            if number == len(lines) and number > 1:
                break  # the line that was being written when the run was cut off
            raise InputError(
                f"{path} must hold a training's measures, line {number} does not"
            ) from error
    drawn = {name: _columns(points) for name, points in curves.items() if points}
    if not drawn:
        raise InputError(f"{path} must hold a training's measures, it has none of {list(CURVES)}")
    return Journey(drawn, {split: _columns(points) for split, points in held_out.items()})


def _step(found: Any) -> int:
    if type(found) is not int or not 0 <= found < 1 << 62:
        raise ValueError(f"a step of {found!r}")
    return found


def _columns(
    points: list[tuple[int, float]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    steps, values = zip(*points, strict=True)
    return np.array(steps, np.int64), np.array(values, np.float64)


def _cells(found: Any) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            mean=_number(cell["mean"]),
            std=_number(cell["std"]),
            ci95=(_number(cell["ci95"][0]), _number(cell["ci95"][1])),
            n=int(cell["n"]),
            nan=int(cell["nan"]),
        )
        for cell in found
    )


def _number(value: float | None) -> float:
    # JSON has no NaN: what is undefined is null there.
    return math.nan if value is None else float(value)
