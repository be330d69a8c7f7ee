"""What chosen edge weights, each by an aggregator, say of one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.edges import AGGREGATORS, EdgeWeight, aggregate, edge_weight
from jaxflow.edges._aggregate import Aggregator
from jaxflow.errors import InputError
from jaxflow.eval.score.reading import Token, reader
from jaxflow.models import Model, trace

__all__ = ["EdgeScores", "Method", "method", "score_sentence"]

Method = tuple[EdgeWeight, Aggregator]


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeScores:
    """One sentence of n tokens.

    Attributes
    ----------
    text
        The sentence.
    tokens
        Its n tokens.
    readout
        The token whose rows the scores are.
    scores
        ``EDGE/AGGREGATOR`` -> float64 ``[L, n]``, the row of the readout after every layer.
    """

    text: str
    tokens: tuple[Token, ...]
    readout: int
    scores: Mapping[str, NDArray[np.float64]]


def method(name: str) -> Method:
    """Read ``EDGE/AGGREGATOR``; an edge weight alone is followed by rollout.

    Raises
    ------
    InputError
        If there is no such edge weight or aggregator.
    """
    edge, slash, how = name.partition("/")
    for known in AGGREGATORS:
        if known == (how if slash else "rollout"):
            return edge_weight(edge), known
    raise InputError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {how!r}")


def score_sentence(
    model: Model, text: str, methods: Sequence[Method], *, threads: int | None = None
) -> EdgeScores:
    """Let methods score a sentence's tokens.

    Parameters
    ----------
    model
        A model of text. Gradients and relevance are those of the class that it predicts.
    text
        The sentence.
    methods
        At least one.
    threads
        For flow; None takes all cores.

    Raises
    ------
    InputError
        If the sentence cannot be read, or the model cannot serve a method.
    """
    reading = reader(model, answer=model.config.head != "none")(text)
    found = trace(model, np.asarray([reading.ids], np.int32))
    scores = {
        f"{edge.name}/{how}": np.asarray(
            aggregate(found, edge, how, sources=reading.place, threads=threads), np.float64
        )[0, :, 0]
        for edge, how in methods
    }
    return EdgeScores(text, reading.units, reading.place, scores)
