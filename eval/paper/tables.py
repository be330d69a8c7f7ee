"""From per-sentence scores to the numbers of Tables 1 and 2, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.claims import Claim
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, Scores
from jaxflow.eval.report.text import to_json
from jaxflow.eval.stats import RESAMPLES, Cell, summarise

__all__ = ["Tables", "beside_paper", "build_tables", "record", "to_csv"]

_COLUMNS = (
    *("target", "row", "layer", "mean", "std", "ci_low", "ci_high", "n", "nan"),
    *("paper_mean", "paper_std", "difference"),
)


@dataclass(frozen=True)
class Tables:
    """Everything the tables show, one cell per layer, bottom to top.

    Attributes
    ----------
    correlations
        Target -> row -> L cells: the agreement of a row's token scores with the target's.
    saturation
        L cells: share of the pairs ([CLS], token) whose flow is at its bound.
    entropy
        Row -> L cells: entropy of the [CLS] row divided by the logarithm of the number of tokens.
    sentences
        Number of sentences S that were scored.
    reference
        The paper's tables that these are set beside.
    """

    correlations: dict[str, dict[str, tuple[Cell, ...]]]
    saturation: tuple[Cell, ...]
    entropy: dict[str, tuple[Cell, ...]]
    sentences: int
    reference: paper.Reference = paper.AGREEMENT

    @property
    def layers(self) -> int:
        """Number of layers L."""
        return len(self.saturation)


def build_tables(
    scores: Scores,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    reference: paper.Reference = paper.AGREEMENT,
) -> Tables:
    """Summarise the per-sentence scores.

    Parameters
    ----------
    scores
        Of one model.
    seed, resamples
        Of the bootstrap behind the intervals.
    reference
        The paper's tables to set them beside.
    """
    # All columns in one call: they share the bootstrap's resamples, which cost the time.
    cells = summarise(_columns(scores), seed, resamples=resamples)
    depth = scores.layers
    rows = iter([cells[start : start + depth] for start in range(0, len(cells), depth)])
    return Tables(
        correlations={target: {row: next(rows) for row in ROWS} for target in TARGETS},
        saturation=next(rows),
        entropy={row: next(rows) for row in ENTROPY_ROWS},
        sentences=scores.sentences,
        reference=reference,
    )


def _columns(scores: Scores) -> Iterator[NDArray[np.float64]]:
    """Yield ``[S]`` of every cell, in their order, with no more than one array in memory."""
    for target in TARGETS:
        for row in ROWS:
            yield from scores.correlations[target][row].T
    yield from scores.saturated.T
    for row in ENTROPY_ROWS:
        yield from scores.entropy[row].T


def beside_paper(
    tables: Tables, target: str, row: str
) -> tuple[tuple[float, float, float], ...] | None:
    """Set a row beside the paper's: its mean, its standard deviation, our mean minus its mean.

    Returns
    -------
    tuple of (paper's mean, paper's std, difference), or None
        One per layer; None where the paper has nothing to compare.
    """
    theirs = tables.reference.row(target, row, tables.layers)
    if theirs is None:
        return None
    ours = tables.correlations[target][row]
    return tuple(
        (mean, std, cell.mean - mean) for cell, (mean, std) in zip(ours, theirs, strict=True)
    )


def record(
    tables: Tables,
    *,
    claims: Sequence[Claim] = (),
    accuracy: Any = None,
    accuracy_by_split: Mapping[str, Mapping[str, float | int]] | None = None,
    samples: int | None = None,
    config: Any = None,
    versions: Any = None,
) -> dict[str, Any]:
    """Give the content of ``tables.json``: plain Python values, None where a number is undefined.

    Parameters
    ----------
    tables, claims
        What was found.
    accuracy
        Of the model on the test split: a number, or a mapping with the parts.
    accuracy_by_split
        Split -> its figures, such as ``{"accuracy", "n", "too_long"}``.
    samples
        Number of sentences; those of `tables` if it is not given.
    config, versions
        What produced it: dataclasses, mappings or anything that has a JSON form.

    Returns
    -------
    dict
        Keys ``tables`` (target -> row -> list of cells), ``saturation`` (list of cells),
        ``entropy`` (row -> list of cells), ``claims`` (list), ``accuracy``,
        ``accuracy_by_split``, ``samples``, ``config``, ``versions``; a cell is
        ``{"mean", "std", "ci95": [low, high], "n", "nan"}``.

    Raises
    ------
    InputError
        If something given has no JSON form.
    """
    return {
        "tables": to_json(tables.correlations),
        "saturation": to_json(tables.saturation),
        "entropy": to_json(tables.entropy),
        "claims": to_json(list(claims)),
        "accuracy": to_json(accuracy),
        "accuracy_by_split": to_json(accuracy_by_split),
        "samples": tables.sentences if samples is None else int(samples),
        "config": to_json(config),
        "versions": to_json(versions),
    }


def to_csv(tables: Tables) -> str:
    """Long form: one line per target, row and layer; empty where undefined or not in the paper."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for target, rows in tables.correlations.items():
        for row, cells in rows.items():
            theirs = beside_paper(tables, target, row) or [(math.nan,) * 3] * len(cells)
            for layer, (cell, compared) in enumerate(zip(cells, theirs, strict=True), start=1):
                numbers = [_number(x) for x in (cell.mean, cell.std, *cell.ci95)]
                counted = [cell.n, cell.nan]
                writer.writerow(
                    [target, row, layer, *numbers, *counted, *(_number(x) for x in compared)]
                )
    return file.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(round(value, 12))
