"""Hold the per-sentence results of one evaluation, from which tables and tests are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.io.npz import read_npz, write_npz
from jaxflow.files import write_together

#: What the token scores are compared with: Table 1, Table 2, and the gradient's norm, because the
#: sum of Table 2 is 0 but for rounding where a LayerNorm follows.
TARGETS = ("blank_out", "gradient", "gradient_norm")
#: The compared scores, in the order of the tables: the paper's three, then the baselines.
ROWS = ("raw", "rollout", "flow", "column_sum", "random", "position")
#: The scores whose focus is measured.
ENTROPY_ROWS = ("raw", "rollout", "flow")
#: The flat names of all scores by layer, in the order of the file.
SCORES = (
    *(f"{target}/{row}" for target in TARGETS for row in ROWS),
    *(f"entropy/{row}" for row in ENTROPY_ROWS),
    "saturated",
)


class Scores(Protocol):
    """Scores in memory, or read array by array on demand; the fields of `SentenceScores`."""

    # ruff: noqa: D102
    @property
    def correlations(self) -> Mapping[str, Mapping[str, NDArray[np.float64]]]: ...

    @property
    def saturated(self) -> NDArray[np.float64]: ...

    @property
    def entropy(self) -> Mapping[str, NDArray[np.float64]]: ...

    @property
    def sentences(self) -> int: ...

    @property
    def layers(self) -> int: ...

    def arrays(self) -> Mapping[str, NDArray]: ...


@dataclass(frozen=True)
class SentenceScores:
    """Per-sentence results of one model on S sentences and L layers.

    Attributes
    ----------
    correlations
        Target (`TARGETS`) -> row (`ROWS`) -> float64 ``[S, L]``: Spearman's correlation of each
        sentence, NaN where one side is constant. A row that is the same at every layer is
        repeated.
    saturated
        float64 ``[S, L]``: share of the pairs ([CLS], token) whose flow is at its bound.
    entropy
        Row (`ENTROPY_ROWS`) -> float64 ``[S, L]``: entropy in nats of the normalised [CLS] row,
        divided by the logarithm of the number of tokens; 0 is one token, 1 is uniform.
    length
        int ``[S]``: number of tokens with [CLS].

    Raises
    ------
    InputError
        If a target or row is missing or unknown, or the shapes differ.
    """

    correlations: dict[str, dict[str, NDArray[np.float64]]]
    saturated: NDArray[np.float64]
    entropy: dict[str, NDArray[np.float64]]
    length: NDArray[np.integer]

    def __post_init__(self) -> None:
        _check_names("correlations", self.correlations, TARGETS)
        for target, rows in self.correlations.items():
            _check_names(f"correlations[{target!r}]", rows, ROWS)
        _check_names("entropy", self.entropy, ENTROPY_ROWS)
        shape = np.shape(self.saturated)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"saturated must be [sentences, layers], neither 0, got {shape}")
        if np.shape(self.length) != shape[:1]:
            raise InputError(f"length must be {shape[:1]} like saturated, got {self.length.shape}")
        for name, values in self._floats().items():
            if np.shape(values) != shape:
                raise InputError(f"{name} must be {shape} like saturated, got {np.shape(values)}")

    @property
    def sentences(self) -> int:
        """Number of sentences S."""
        return int(self.saturated.shape[0])

    @property
    def layers(self) -> int:
        """Number of layers L."""
        return int(self.saturated.shape[1])

    def arrays(self) -> dict[str, NDArray]:
        """All arrays under their flat names in the file, such as ``blank_out/raw``."""
        return {**self._floats(), "saturated": self.saturated, "length": self.length}

    def save(self, path: str | PathLike[str], extra: Mapping[str, NDArray] | None = None) -> None:
        """Write ``scores.npz``, with further named arrays that `load_extra` reads back.

        Raises
        ------
        InputError
            If the file cannot be written, or an extra array has a name or dtype that cannot be
            kept.
        """
        path = Path(path)
        write_together(path.parent, {path.name: lambda part: write_scores(part, self, extra)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SentenceScores:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged or not one of these.
        """
        arrays = _read(path)
        missing = [name for name in _names() if name not in arrays]
        if missing:
            raise InputError(
                f"{path} must hold the arrays of an evaluation, {missing[0]} is missing"
            )
        for name in _names():
            kinds = "iu" if name == "length" else "f"
            if arrays[name].dtype.kind not in kinds:
                raise InputError(f"{path} must hold numbers, {name} is of {arrays[name].dtype}")
        try:
            return cls(
                correlations={t: {r: arrays[f"{t}/{r}"] for r in ROWS} for t in TARGETS},
                saturated=arrays["saturated"],
                entropy={row: arrays[f"entropy/{row}"] for row in ENTROPY_ROWS},
                length=arrays["length"],
            )
        except InputError as error:
            raise InputError(f"the scores {path} cannot be used: {error}") from error

    def _floats(self) -> dict[str, NDArray]:
        named = {f"{t}/{r}": self.correlations[t][r] for t in TARGETS for r in ROWS}
        return {**named, **{f"entropy/{row}": self.entropy[row] for row in ENTROPY_ROWS}}


def write_scores(path: Path, scores: Scores, extra: Mapping[str, NDArray] | None = None) -> None:
    """Write the file in place, holding one array at a time; `SentenceScores.save` is safer.

    Raises `InputError` as that does, but `OSError` for a file that cannot be written.
    """
    arrays, further = scores.arrays(), dict(extra or {})
    for name, values in further.items():
        if name in arrays:
            raise InputError(f"extra must have names of its own, got {name!r}")
        if np.asarray(values).dtype.hasobject:
            raise InputError(f"extra[{name!r}] must be an array of numbers or strings")
    write_npz(path, chain(arrays.items(), further.items()))


def load_extra(path: str | PathLike[str]) -> dict[str, NDArray]:
    """Read the further arrays that `SentenceScores.save` was given."""
    own = set(_names())
    return {name: values for name, values in _read(path).items() if name not in own}


def _names() -> list[str]:
    return [*SCORES, "length"]


def _read(path: str | PathLike[str]) -> dict[str, NDArray]:
    try:
        return read_npz(path)
    except InputError as error:
        raise InputError(f"the scores of an evaluation cannot be read: {error}") from error


def _check_names(where: str, given: Mapping[str, object], expected: tuple[str, ...]) -> None:
    if set(given) != set(expected):
        raise InputError(f"{where} must have the keys {list(expected)}, got {list(given)}")
