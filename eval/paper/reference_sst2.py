"""The numbers of the paper's Table 3, with which ours are compared.

Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (arXiv 2005.00928): DistilBERT
fine-tuned on SST-2, mean and standard deviation over 100 sentences; four of its six layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from jaxflow.eval.paper.reference import Reference

__all__ = ["PAPER_SENTENCES", "SENTIMENT", "SENTIMENT_CORRECTED", "TABLE_3"]

PAPER_SENTENCES = 100

_Row = tuple[tuple[float, float], ...]
_ABSENT = (math.nan, math.nan)


def _row(
    first: tuple[float, float],
    third: tuple[float, float],
    fifth: tuple[float, float],
    sixth: tuple[float, float],
) -> _Row:
    return (first, _ABSENT, third, _ABSENT, fifth, sixth)


#: Row -> (mean, standard deviation) of each layer, bottom to top; NaN for L2 and L4.
TABLE_3: Mapping[str, _Row] = MappingProxyType(
    {
        "raw": _row((0.12, 0.21), (0.09, 0.21), (0.08, 0.20), (0.09, 0.21)),
        "rollout": _row((0.11, 0.19), (0.12, 0.21), (0.13, 0.21), (0.13, 0.20)),
        "flow": _row((0.11, 0.19), (0.11, 0.21), (0.12, 0.22), (0.14, 0.21)),
    }
)

_SOURCE = "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, Table 3"
_TABLES = MappingProxyType({"gradient": TABLE_3})

#: Beside results by the authors' own protocol.
SENTIMENT = Reference(
    source=_SOURCE,
    sentences=PAPER_SENTENCES,
    tables=_TABLES,
    titles=MappingProxyType(
        {
            "blank_out": "Blank-out, by the authors' protocol",
            "gradient": "Table 3 by the authors' protocol: input gradients",
            "gradient_norm": "Table 3 by the authors' protocol, with the norm of the gradient",
        }
    ),
)

#: Beside results by the corrected protocol.
SENTIMENT_CORRECTED = Reference(
    source=_SOURCE,
    sentences=PAPER_SENTENCES,
    tables=_TABLES,
    titles=MappingProxyType(
        {
            "blank_out": "Corrected: Spearman's correlation with blank-out",
            "gradient": "Table 3, corrected: Spearman's correlation with input gradients",
            "gradient_norm": "Corrected, with the norm of the gradient in place of its sum",
        }
    ),
)
