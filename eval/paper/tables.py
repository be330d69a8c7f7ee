"""Average per-sentence scores to the numbers of Tables 1 to 3, and write them as JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.paper.claims import Claim
from jaxflow.eval.paper.reference import AGREEMENT, Reference
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, Scores
from jaxflow.eval.report.table import Table
from jaxflow.eval.report.text import to_json
from jaxflow.eval.stats import RESAMPLES, Cell, summarise

_COLUMNS = (
    *("target", "row", "layer", "mean", "std", "ci_low", "ci_high", "n", "nan"),
    *("paper_mean", "paper_std", "difference"),
)

# Where a band of sentence lengths begins, in tokens with [CLS].
_LENGTHS = (2, 4, 6, 9, 15)


@dataclass(frozen=True)
class Tables:
    """Results of one model, one cell per layer, bottom to top.

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
        The paper's tables that these are compared with.
    """

    correlations: dict[str, dict[str, tuple[Cell, ...]]]
    saturation: tuple[Cell, ...]
    entropy: dict[str, tuple[Cell, ...]]
    sentences: int
    reference: Reference = AGREEMENT

    @property
    def layers(self) -> int:
        """Number of layers L."""
        return len(self.saturation)


def build_tables(
    scores: Scores,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    reference: Reference = AGREEMENT,
) -> Tables:
    """Compute means, deviations and bootstrap intervals of one model's per-sentence scores.

    `reference` are the paper's tables to compare them with.
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
    """Return the paper's mean and deviation of a row and our mean minus the paper's, one per layer.

    None where the paper has nothing to compare.
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
    config: Any = None,
    versions: Any = None,
) -> dict[str, Any]:
    """Return the content of ``tables.json``: JSON values, None where a number is undefined.

    Keys are ``tables`` (target -> row -> list of cells), ``saturation`` (list of cells),
    ``entropy`` (row -> list of cells), ``claims`` (list), ``accuracy`` (a number, or a mapping with
    the parts), ``accuracy_by_split`` (split -> numbers such as ``accuracy``, ``n``, ``too_long``),
    ``samples``, ``config``, ``versions``; a cell is ``{"mean", "std", "ci95": [low, high], "n",
    "nan"}``. Raises `InputError` if something given has no JSON form.
    """
    return {
        "tables": to_json(tables.correlations),
        "saturation": to_json(tables.saturation),
        "entropy": to_json(tables.entropy),
        "claims": to_json(list(claims)),
        "accuracy": to_json(accuracy),
        "accuracy_by_split": to_json(accuracy_by_split),
        "samples": tables.sentences,
        "config": to_json(config),
        "versions": to_json(versions),
    }


def to_csv(tables: Tables) -> str:
    """Write the correlations as CSV, a line for each target, row and layer; empty where undefined.

    Columns: ``target``, ``row``, ``layer`` (from 1), ``mean``, ``std``, ``ci_low``, ``ci_high``,
    ``n``, ``nan``, and ``paper_mean``, ``paper_std`` and ``difference`` where the paper has them.
    """
    lines = []
    for target, rows in tables.correlations.items():
        for row, cells in rows.items():
            theirs = beside_paper(tables, target, row) or [(None,) * 3] * len(cells)
            for layer, (cell, compared) in enumerate(zip(cells, theirs, strict=True), start=1):
                ours = (cell.mean, cell.std, *cell.ci95, cell.n, cell.nan)
                lines.append([target, row, layer, *ours, *compared])
    return Table.of(_COLUMNS, lines).to_csv()


def length_bands(lengths: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Return which sentences are in each band of lengths, bool ``[S]``; empty bands are left out.

    Examples
    --------
    >>> {label: member.tolist() for label, member in length_bands(np.array([3, 20, 2])).items()}
    {'2–3': [True, False, True], '15+': [False, True, False]}
    """
    found = {}
    for start, after in zip(_LENGTHS, (*_LENGTHS[1:], None), strict=True):
        member = (lengths >= start) if after is None else (lengths >= start) & (lengths < after)
        if member.any():
            found[f"{start}+" if after is None else f"{start}–{after - 1}"] = member
    return found
