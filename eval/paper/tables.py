"""Average per-sentence scores to the numbers of Tables 1 to 3, beside those of the paper.

Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928): mean and
standard deviation over sentences of Spearman's correlation over the tokens of a sentence. Tables 1
and 2: 2,000 test sentences of subject-verb agreement. Table 3: DistilBERT fine-tuned on SST-2, 100
sentences; four of its six layers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, SCORES, TARGETS, SentenceScores
from jaxflow.eval.report import Table
from jaxflow.eval.stats import RESAMPLES, Cell, summarise

_Row = tuple[tuple[float, float], ...]

LAYERS = 6  # of the paper's models
PAPER = "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"

#: What token scores are compared with, in words.
TARGET_TITLES: Mapping[str, str] = {
    "blank_out": "blank-out",
    "gradient": "input gradients",
    "gradient_norm": "gradient norms",
}

_COLUMNS = (
    *("target", "row", "layer", "mean", "std", "ci_low", "ci_high", "n", "nan"),
    *("paper_mean", "paper_std", "difference"),
)

# Where a band of sentence lengths begins, in tokens with [CLS].
_LENGTHS = (2, 4, 6, 9, 15)

# Errors of reading JSON of another form than expected.
SPOILT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def _row(text: str) -> _Row:
    """Read means and standard deviations, bottom layer first, as the paper prints them."""
    pairs = (cell.split("±") for cell in text.split())
    return tuple((float(mean), float(std)) for mean, std in pairs)


@dataclass(frozen=True)
class Reference:
    """Published tables that ours are compared with."""

    source: str
    sentences: int  # that they are means over
    #: Target -> row -> (mean, standard deviation) of each of 6 layers, bottom to top; NaN for a
    #: layer that is not in the paper.
    tables: Mapping[str, Mapping[str, _Row]]
    titles: Mapping[str, str]  # target -> the title of our table

    def row(self, target: str, row: str, layers: int) -> _Row | None:
        """Return one row; None if it is not there, or a model of `layers` has another depth."""
        return self.tables.get(target, {}).get(row) if layers == LAYERS else None


#: Tables 1 and 2.
AGREEMENT = Reference(
    f"{PAPER}, Tables 1 and 2",
    2000,
    {
        "blank_out": {
            "raw": _row(".69±.27 .10±.43 -.11±.49 -.09±.52 .20±.45 .29±.39"),
            "rollout": _row(".32±.26 .38±.27 .51±.26 .62±.26 .70±.25 .71±.24"),
            "flow": _row(".32±.26 .44±.29 .70±.25 .70±.22 .71±.22 .70±.22"),
        },
        "gradient": {
            "raw": _row(".53±.33 .16±.38 -.06±.42 .00±.47 .24±.40 .46±.35"),
            "rollout": _row(".22±.31 .27±.32 .39±.32 .47±.32 .53±.32 .54±.31"),
            "flow": _row(".22±.31 .31±.34 .54±.32 .61±.28 .60±.28 .61±.28"),
        },
    },
    {
        "blank_out": "Table 1: Spearman's correlation with blank-out",
        "gradient": "Table 2: Spearman's correlation with input gradients",
        "gradient_norm": "Table 2, with the norm of the gradient in place of its sum",
    },
)

#: Table 3, beside results by the authors' own protocol; L2 and L4 are not in the paper.
SENTIMENT = Reference(
    f"{PAPER}, Table 3",
    100,
    {
        "gradient": {
            "raw": _row(".12±.21 nan±nan .09±.21 nan±nan .08±.20 .09±.21"),
            "rollout": _row(".11±.19 nan±nan .12±.21 nan±nan .13±.21 .13±.20"),
            "flow": _row(".11±.19 nan±nan .11±.21 nan±nan .12±.22 .14±.21"),
        }
    },
    {
        "blank_out": "Blank-out, by the authors' protocol",
        "gradient": "Table 3 by the authors' protocol: input gradients",
        "gradient_norm": "Table 3 by the authors' protocol, with the norm of the gradient",
    },
)

#: Table 3, beside results by the corrected protocol.
SENTIMENT_CORRECTED = dataclasses.replace(
    SENTIMENT,
    titles={
        "blank_out": "Corrected: Spearman's correlation with blank-out",
        "gradient": "Table 3, corrected: Spearman's correlation with input gradients",
        "gradient_norm": "Corrected, with the norm of the gradient in place of its sum",
    },
)


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
    scores: SentenceScores,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    reference: Reference = AGREEMENT,
) -> Tables:
    """Compute means, deviations and bootstrap intervals of one model's per-sentence scores.

    `reference` are the paper's tables to compare them with.
    """
    # All columns in one call: they share the bootstrap's resamples, which cost the time.
    columns = (column for name in SCORES for column in scores[name].T)
    cells = summarise(columns, seed, resamples=resamples)
    found = {
        name: cells[place * scores.layers : (place + 1) * scores.layers]
        for place, name in enumerate(SCORES)
    }
    return Tables(
        correlations={t: {row: found[f"{t}/{row}"] for row in ROWS} for t in TARGETS},
        saturation=found["saturated"],
        entropy={row: found[f"entropy/{row}"] for row in ENTROPY_ROWS},
        sentences=scores.sentences,
        reference=reference,
    )


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


def read_tables(folder: Path) -> Tables:
    """Read ``tables.json`` back, without the claims.

    Raises `InputError` if the folder has none, or it is not what an evaluation writes.
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
    except SPOILT as error:
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


def _cells(found: Any) -> tuple[Cell, ...]:
    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)  # JSON has no NaN

    return tuple(
        Cell(
            mean=number(cell["mean"]),
            std=number(cell["std"]),
            ci95=(number(cell["ci95"][0]), number(cell["ci95"][1])),
            n=int(cell["n"]),
            nan=int(cell["nan"]),
        )
        for cell in found
    )


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
