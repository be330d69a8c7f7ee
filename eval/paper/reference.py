"""Hold the numbers of the paper's Tables 1, 2 and 3, with which ours are compared.

Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928): mean and
standard deviation over sentences of Spearman's correlation over the tokens of a sentence. Tables 1
and 2: 2,000 test sentences of subject-verb agreement. Table 3: DistilBERT fine-tuned on SST-2, 100
sentences; four of its six layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_Row = tuple[tuple[float, float], ...]

LAYERS = 6
PAPER = "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"

#: What token scores are compared with, in words.
TARGET_TITLES: Mapping[str, str] = {
    "blank_out": "blank-out",
    "gradient": "input gradients",
    "gradient_norm": "gradient norms",
}


def _row(text: str) -> _Row:
    """Read means and standard deviations, bottom layer first, as the paper prints them."""
    pairs = (cell.split("±") for cell in text.split())
    return tuple((float(mean), float(std)) for mean, std in pairs)


#: Target -> row -> (mean, standard deviation) of each layer, bottom to top.
TABLES: Mapping[str, Mapping[str, _Row]] = {
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
}

#: Row -> (mean, standard deviation) of each layer; NaN for L2 and L4, which are not in the paper.
TABLE_3: Mapping[str, _Row] = {
    "raw": _row(".12±.21 nan±nan .09±.21 nan±nan .08±.20 .09±.21"),
    "rollout": _row(".11±.19 nan±nan .12±.21 nan±nan .13±.21 .13±.20"),
    "flow": _row(".11±.19 nan±nan .11±.21 nan±nan .12±.22 .14±.21"),
}


@dataclass(frozen=True)
class Reference:
    """Published tables that ours are compared with.

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
        """Return one row; None if it is not there, or a model of `layers` has another depth."""
        return self.tables.get(target, {}).get(row) if layers == LAYERS else None


#: Tables 1 and 2.
AGREEMENT = Reference(
    f"{PAPER}, Tables 1 and 2",
    2000,
    TABLES,
    {
        "blank_out": "Table 1: Spearman's correlation with blank-out",
        "gradient": "Table 2: Spearman's correlation with input gradients",
        "gradient_norm": "Table 2, with the norm of the gradient in place of its sum",
    },
)

#: Table 3, beside results by the authors' own protocol.
SENTIMENT = Reference(
    f"{PAPER}, Table 3",
    100,
    {"gradient": TABLE_3},
    {
        "blank_out": "Blank-out, by the authors' protocol",
        "gradient": "Table 3 by the authors' protocol: input gradients",
        "gradient_norm": "Table 3 by the authors' protocol, with the norm of the gradient",
    },
)

#: Table 3, beside results by the corrected protocol.
SENTIMENT_CORRECTED = Reference(
    SENTIMENT.source,
    SENTIMENT.sentences,
    SENTIMENT.tables,
    {
        "blank_out": "Corrected: Spearman's correlation with blank-out",
        "gradient": "Table 3, corrected: Spearman's correlation with input gradients",
        "gradient_norm": "Corrected, with the norm of the gradient in place of its sum",
    },
)
