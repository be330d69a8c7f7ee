"""The numbers of the paper's Tables 1 and 2, with which ours are compared.

Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928): mean and
standard deviation over 2,000 test sentences of subject-verb agreement of Spearman's correlation
over the tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "AGREEMENT",
    "LAYERS",
    "ROW_TITLES",
    "SENTENCES",
    "SOURCE",
    "TABLES",
    "TABLE_TITLES",
    "TARGET_TITLES",
    "Reference",
    "paper_row",
]

SOURCE = "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, Tables 1 and 2"
LAYERS = 6
SENTENCES = 2000

TARGET_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "blank_out": "blank-out",
        "gradient": "input gradients",
        "gradient_norm": "gradient norms",
    }
)
TABLE_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "blank_out": "Table 1: Spearman's correlation with blank-out",
        "gradient": "Table 2: Spearman's correlation with input gradients",
        "gradient_norm": "Table 2, with the norm of the gradient in place of its sum",
    }
)
ROW_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "raw": "raw",
        "rollout": "rollout",
        "flow": "flow",
        "column_sum": "column sum",
        "random": "random",
        "position": "position",
    }
)

_Row = tuple[tuple[float, float], ...]

#: Target -> row -> (mean, standard deviation) of each layer, bottom to top.
TABLES: Mapping[str, Mapping[str, _Row]] = MappingProxyType(
    {
        "blank_out": MappingProxyType(
            {
                "raw": (
                    (0.69, 0.27),
                    (0.10, 0.43),
                    (-0.11, 0.49),
                    (-0.09, 0.52),
                    (0.20, 0.45),
                    (0.29, 0.39),
                ),
                "rollout": (
                    (0.32, 0.26),
                    (0.38, 0.27),
                    (0.51, 0.26),
                    (0.62, 0.26),
                    (0.70, 0.25),
                    (0.71, 0.24),
                ),
                "flow": (
                    (0.32, 0.26),
                    (0.44, 0.29),
                    (0.70, 0.25),
                    (0.70, 0.22),
                    (0.71, 0.22),
                    (0.70, 0.22),
                ),
            }
        ),
        "gradient": MappingProxyType(
            {
                "raw": (
                    (0.53, 0.33),
                    (0.16, 0.38),
                    (-0.06, 0.42),
                    (0.00, 0.47),
                    (0.24, 0.40),
                    (0.46, 0.35),
                ),
                "rollout": (
                    (0.22, 0.31),
                    (0.27, 0.32),
                    (0.39, 0.32),
                    (0.47, 0.32),
                    (0.53, 0.32),
                    (0.54, 0.31),
                ),
                "flow": (
                    (0.22, 0.31),
                    (0.31, 0.34),
                    (0.54, 0.32),
                    (0.61, 0.28),
                    (0.60, 0.28),
                    (0.61, 0.28),
                ),
            }
        ),
    }
)


def paper_row(target: str, row: str, layers: int) -> _Row | None:
    """Look up one row of the paper; None if it lacks the row, or its model has another depth.

    Parameters
    ----------
    target, row
        Names as in `TABLES`.
    layers
        Layers of the model that is compared; only the paper's 6 can be set side by side.

    Returns
    -------
    tuple of (mean, std), or None
        One pair per layer, bottom to top.
    """
    return TABLES.get(target, {}).get(row) if layers == LAYERS else None


@dataclass(frozen=True)
class Reference:
    """Published tables that ours are set beside.

    Attributes
    ----------
    source
        Where they are published.
    sentences
        How many sentences they are means over.
    tables
        Target -> row -> (mean, standard deviation) of each of the model's 6 layers, bottom to top;
        NaN for a layer that is not in the paper.
    titles
        Target -> the title of our table.
    """

    source: str
    sentences: int
    tables: Mapping[str, Mapping[str, _Row]]
    titles: Mapping[str, str]

    def row(self, target: str, row: str, layers: int) -> _Row | None:
        """Look up one row; None if it is not there, or our model has another depth."""
        return self.tables.get(target, {}).get(row) if layers == LAYERS else None


#: Tables 1 and 2.
AGREEMENT = Reference(SOURCE, SENTENCES, TABLES, TABLE_TITLES)
