"""Hold the per-sentence results of one evaluation, from which tables and tests are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.io.npz import read_npz, write_npz

#: What the token scores are compared with: Table 1, Table 2, and the gradient's norm, because the
#: sum of Table 2 is 0 but for rounding where a LayerNorm follows.
TARGETS = ("blank_out", "gradient", "gradient_norm")
#: The compared scores, in the order of the tables: the paper's three, then the baselines.
ROWS = ("raw", "rollout", "flow", "column_sum", "random", "position")
#: The scores whose focus is measured.
ENTROPY_ROWS = ("raw", "rollout", "flow")
#: The names of all scores by layer, in the order of the file.
SCORES = (
    *(f"{target}/{row}" for target in TARGETS for row in ROWS),
    *(f"entropy/{row}" for row in ENTROPY_ROWS),
    "saturated",
)


@dataclass(frozen=True, eq=False)
class SentenceScores:
    """Per-sentence results of one model on S sentences and L layers.

    Attributes
    ----------
    arrays
        Name -> array, in memory or read at every access: `SCORES`, each float64 ``[S, L]``, and
        ``length``, int ``[S]``, the number of tokens with [CLS]. ``TARGET/ROW`` is Spearman's
        correlation of each sentence, NaN where one side is constant; a row that is the same at
        every layer is repeated. ``entropy/ROW`` is the entropy in nats of the normalised [CLS] row,
        divided by the logarithm of the number of tokens: 0 is one token, 1 is uniform.
        ``saturated`` is the share of the pairs ([CLS], token) whose flow is at its bound.
    layers
        L.
    """

    arrays: Mapping[str, NDArray]
    layers: int

    def __getitem__(self, name: str) -> NDArray:
        return self.arrays[name]

    @property
    def sentences(self) -> int:
        """Number of sentences S."""
        return len(self["length"])

    @property
    def correlations(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Target -> row -> ``[S, L]``."""
        return {target: {row: self[f"{target}/{row}"] for row in ROWS} for target in TARGETS}

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SentenceScores:
        """Read ``scores.npz``.

        Raises `InputError` if the file is missing, damaged or not one of these.
        """
        found = _read(path)
        shape = found["saturated"].shape if "saturated" in found else ()
        for name in (*SCORES, "length"):
            if name not in found:
                raise InputError(f"{path} must hold the arrays of an evaluation, {name} is missing")
            if found[name].dtype.kind not in ("iu" if name == "length" else "f"):
                raise InputError(f"{path} must hold numbers, {name} is of {found[name].dtype}")
            expected = shape[:1] if name == "length" else shape
            if len(shape) != 2 or 0 in shape or found[name].shape != expected:
                raise InputError(
                    f"the scores {path} cannot be used: {name} must be {expected} like saturated, "
                    f"[sentences, layers] and neither 0, got {found[name].shape}"
                )
        return cls({name: found[name] for name in (*SCORES, "length")}, shape[1])


def write_scores(
    path: Path, scores: SentenceScores, extra: Mapping[str, NDArray] | None = None
) -> None:
    """Write ``scores.npz`` in place with further named arrays, holding one array at a time.

    Raises `InputError` if an extra array has a name or dtype that cannot be kept, and `OSError` if
    the file cannot be written.
    """
    further = dict(extra or {})
    for name, values in further.items():
        if name in scores.arrays:
            raise InputError(f"extra must have names of its own, got {name!r}")
        if np.asarray(values).dtype.hasobject:
            raise InputError(f"extra[{name!r}] must be an array of numbers or strings")
    write_npz(path, chain(scores.arrays.items(), further.items()))


def load_extra(path: str | PathLike[str]) -> dict[str, NDArray]:
    """Read the further arrays of ``scores.npz``."""
    return {name: values for name, values in _read(path).items() if name not in (*SCORES, "length")}


def _read(path: str | PathLike[str]) -> dict[str, NDArray]:
    try:
        return read_npz(path)
    except InputError as error:
        raise InputError(f"the scores of an evaluation cannot be read: {error}") from error
