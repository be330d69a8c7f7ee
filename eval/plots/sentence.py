"""One sentence's token attention on every layer: what the figures of a sentence are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import jaxflow

if TYPE_CHECKING:
    from jaxflow.eval.explain.explanation import Explanation

__all__ = ["SentenceMaps", "sentence_maps"]


@dataclass(frozen=True, eq=False)
class SentenceMaps:
    """What a model's attention says of one sentence of n tokens.

    Attributes
    ----------
    tokens
        The n tokens.
    attention
        ``[L, H, n, n]``.
    maps
        ``raw``, ``rollout`` and ``flow`` -> float64 token attention ``[L, n, n]``.
    scores
        Method -> float64 ``[n]``, what it says of each token in the end.
    readout
        The token that the prediction is read off.
    """

    tokens: tuple[str, ...]
    attention: NDArray[np.floating]
    maps: Mapping[str, NDArray[np.float64]]
    scores: Mapping[str, NDArray[np.float64]]
    readout: int = 0


def sentence_maps(explanation: Explanation, residual: float = 0.5) -> SentenceMaps:
    """Work out the maps of an explained sentence.

    Parameters
    ----------
    explanation
        As `jaxflow.eval.explain.explanation.explainer` gives it.
    residual
        Share of the residual connection in rollout and flow.
    """
    attention = np.asarray(explanation.attention, np.float64)
    return SentenceMaps(
        tokens=tuple(token.text for token in explanation.tokens),
        attention=attention,
        maps={
            "raw": np.asarray(jaxflow.raw_attention(attention)),
            "rollout": np.asarray(jaxflow.rollout(attention, residual=residual)),
            "flow": np.asarray(jaxflow.flow(attention, residual=residual)),
        },
        scores=dict(explanation.scores),
        readout=explanation.readout,
    )
