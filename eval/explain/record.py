"""Explanations as JSON, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxflow.eval.explain.explanation import METHODS, Explanation
from jaxflow.eval.report.text import json_text, to_json

__all__ = ["FORMAT", "as_json", "record"]

FORMAT = "jaxflow-explanation-1"


def record(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Turn explanations into what JSON has.

    Returns
    -------
    dict
        ``{"format": "jaxflow-explanation-1", "methods": [M names], "sentences": [...]}``, one
        sentence for each explanation, in order:

        ================= =========================================================
        ``text``          the sentence as given
        ``prediction``    the likeliest class or token: ``"singular"`` or ``"plural"``
        ``probabilities`` ``{"singular": p, "plural": p}``
        ``tokens``        n objects ``{"text", "seen", "known"}``
        ``readout``       index of the token that the prediction is read off, of ``[CLS]`` 0
        ``target``        what the gradient is of, `jaxflow.eval.score.target`
        ``replacement``   what blank-out puts in, ``mask`` or ``unk``
        ``unknown``       the words that the vocabulary does not have
        ``scores``        method -> n numbers, top layer, readout row
        ``agreement``     method -> method -> Spearman's correlation, null where undefined
        ``layers``        ``raw``, ``rollout``, ``flow`` -> L lists of n numbers, bottom first
        ``saturated``     n booleans: flow is at the bound of its token
        ``cuts``          for each token asked for ``{"token", "value", "edges", "words",
                          "summary"}``: its index, the flow to it, the edges
                          ``[layer, query, key]`` that hold it down, from 0, and the same in words,
                          layers from 1
        ================= =========================================================
    """
    return {
        "format": FORMAT,
        "methods": list(METHODS),
        "sentences": [_sentence(explanation) for explanation in explanations],
    }


def as_json(explanations: Sequence[Explanation]) -> str:
    """Write explanations as strict JSON text (no NaN), `record`'s form."""
    return json_text(record(explanations))


def _sentence(explanation: Explanation) -> dict[str, Any]:
    agreement = {
        name: dict(zip(METHODS, to_json(row), strict=True))
        for name, row in zip(METHODS, explanation.agreement, strict=True)
    }
    return {
        "text": explanation.text,
        "prediction": explanation.prediction,
        "probabilities": to_json(explanation.probabilities),
        "tokens": to_json(explanation.tokens),
        "readout": explanation.readout,
        **explanation.scoring.record(),
        "unknown": list(explanation.unknown),
        "scores": to_json(explanation.scores),
        "agreement": agreement,
        "layers": to_json(explanation.layers),
        "saturated": to_json(explanation.saturated),
        "cuts": to_json(explanation.cuts),
    }
