r"""Early tokens of a decoder, before and after normalisation by the receptive field.

A causal encoder's class is read off its last word. Of every sentence the row of that word is taken,
by raw attention, rollout and flow, at every layer, as it is and divided by what uniform causal
attention gives each token (`jaxflow.edges.receptive_field`), which is shown by itself too. Raw
attention's field is the same for all tokens, :math:`1/n`, so that dividing changes nothing of it
that is measured here: it stands in the tables once.

Scores are compared as shares of a row's mass and as ranks. Both are worked out over all tokens,
over the words alone, without ``[CLS]``, and over all tokens but the last word, whose score in its
own row is mostly the residual connection's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.edges import receptive_field
from jaxflow.errors import InputError
from jaxflow.eval.protocol import PAPER_SAMPLES, ProtocolConfig, choose, token_scores
from jaxflow.models import EncoderConfig, Model
from jaxflow.train.batches import EncodedSplit

__all__ = [
    "AFTER",
    "MEASURES",
    "NORMALISED",
    "PLACE",
    "TARGETS",
    "VARIANTS",
    "DecoderScores",
    "check_decoder",
    "measure_rows",
    "place_rows",
    "score_decoder",
]

#: The methods that are normalised, by which rows are called; after them, what their place explains
#: and what is left of them.
NORMALISED = ("rollout", "flow")
PLACE, AFTER = "{} place", "{} normalised"

#: Over which tokens a measure is taken.
VARIANTS = {
    "tokens": "all tokens",
    "words": "words alone, without [CLS]",
    "others": "all tokens but the last word, the readout",
}

TARGETS = ("blank_out", "gradient_norm")

#: What is measured of a row, and how tables call it.
MEASURES = {
    "first_token": "share of the mass on token 0, [CLS]",
    "excess": "the same minus an even share",
    "first_word": "share of the mass on the first word",
    "readout": "share of the mass on the last word itself",
    "centre": "centre of gravity of the mass: 0 the first token, 1 the last",
    "position": "Spearman's correlation with the position",
    "blank_out": "Spearman's correlation with blank-out",
    "gradient_norm": "Spearman's correlation with the gradient's norm",
    "subject": "the subject noun scores highest: share of the sentences where it counts",
}
#: What is empty by definition over some of the tokens.
_LEFT_OUT = {"tokens": (), "words": ("first_token", "excess"), "others": ("readout",)}

_Rows = Mapping[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderScores:
    """What is measured of S sentences at L layers.

    Attributes
    ----------
    measures
        Over which tokens (`VARIANTS`) -> measure (`MEASURES`) -> row -> float64 ``[S, L]``, NaN
        where it is undefined.
    relative
        Method (`NORMALISED`) -> float64 ``[S, L]``: the score of token 0 over what its place
        explains; 1 is as much.
    lengths
        int ``[S]``, tokens with ``[CLS]``.
    """

    measures: Mapping[str, Mapping[str, _Rows]]
    relative: _Rows
    lengths: NDArray[np.integer]


def check_decoder(model: Model) -> None:
    """Refuse a model that is no causal encoder.

    Raises
    ------
    InputError
        If it is another one.
    """
    if not (isinstance(model.config, EncoderConfig) and model.config.causal):
        raise InputError(
            "the study of decoders needs a causal encoder, such as jaxflow train --causal makes, "
            "got a model that is none"
        )


def score_decoder(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    protocol: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> DecoderScores:
    """Measure a causal encoder on the sentences of a split.

    Parameters
    ----------
    model, split, lengths
        The model, sentences, and the padded lengths to compile it for.
    protocol
        How sentences are drawn and scored; of a split with fewer than `samples` all are taken.
    report
        Called with the number of sentences done and their total.

    Raises
    ------
    InputError
        If the model is no causal encoder, or no sentence is asked for or there.
    """
    check_decoder(model)
    samples = PAPER_SAMPLES if protocol.samples is None else protocol.samples
    protocol = dataclasses.replace(
        protocol, samples=min(samples, max(len(split), 1)), special_tokens=False
    )
    chosen = choose(split, protocol)
    scored = token_scores(model, chosen, lengths, protocol, report)
    rows, relative = {}, {}
    real = np.arange(scored.counted.shape[1]) < chosen.lengths[:, None]
    for name in NORMALISED:
        before = np.nan_to_num(scored.methods[name])
        place = place_rows(chosen.lengths, before, name, protocol.residual, protocol.threads)
        after = np.divide(before, place, out=np.zeros_like(place), where=place > 0)
        rows |= {name: before, PLACE.format(name): place, AFTER.format(name): after}
        relative[name] = after[..., 0]
    rows["raw"] = np.nan_to_num(scored.methods["raw"])
    targets = {name: np.nan_to_num(scored.targets[name]) for name in TARGETS}
    others = real & (np.arange(real.shape[1]) < chosen.lengths[:, None] - 1)
    measures = {}
    for variant, counted in zip(VARIANTS, (real, scored.counted, others), strict=True):
        found = measure_rows(rows, targets, counted, chosen.subject_index)
        measures[variant] = {
            name: found[name]
            for name in MEASURES
            if name in found and name not in _LEFT_OUT[variant]
        }
    return DecoderScores(measures, relative, chosen.lengths)


def place_rows(
    lengths: NDArray[np.integer],
    like: NDArray[np.float64],
    how: str,
    residual: float = 0.5,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return what uniform causal attention gives the tokens of sentences, read off the last one.

    Parameters
    ----------
    lengths
        int ``[S]``.
    like
        ``[S, L, n]``: of that shape the result is.
    how, residual, threads
        As for `jaxflow.edges.receptive_field`.

    Returns
    -------
    ndarray
        float64 ``[S, L, n]``, 0 behind a sentence's end.
    """
    _, layers, n = like.shape
    # The first k rows are those of a sentence of k tokens, so that one field serves all lengths.
    field = receptive_field(n, layers, how, residual, threads)  # type: ignore[arg-type]
    return np.moveaxis(field[:, lengths - 1], 1, 0).astype(np.float64)


def measure_rows(
    rows: Mapping[str, NDArray[np.float64]],
    targets: Mapping[str, NDArray[np.float64]],
    counted: NDArray[np.bool_],
    subjects: NDArray[np.integer],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Measure rows of scores over some of the tokens.

    Parameters
    ----------
    rows
        Name -> ``[S, L, n]``.
    targets
        What they are correlated with -> ``[S, n]``.
    counted
        bool ``[S, n]``: the tokens that count.
    subjects
        int ``[S]``: place of the subject noun among all n, negative where unknown.

    Returns
    -------
    dict
        Measure -> row -> float64 ``[S, L]``; ``subject`` only where some subject is known.
    """
    n = counted.shape[1]
    order = np.cumsum(counted, 1) - 1  # place among the tokens that count
    count = counted.sum(1)
    steps = np.where(count > 1, count - 1, np.nan)[:, None]
    references = {**targets, "position": np.broadcast_to(np.arange(float(n)), counted.shape)}
    last = np.max(np.where(counted, np.arange(n), 0), axis=1)[:, None, None]
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, scores in rows.items():
        shares = _shares(scores, counted)
        measured = {
            "first_token": shares[..., 0],
            "excess": shares[..., 0] - 1 / np.maximum(count, 1)[:, None],
            "first_word": shares[..., 1] if n > 1 else np.full(shares.shape[:2], np.nan),
            "readout": np.take_along_axis(shares, last, -1)[..., 0],
            "centre": (shares * order[:, None]).sum(-1) / steps,
        }
        for target, reference in references.items():
            measured[target] = np.asarray(
                jaxflow.spearman(scores, reference[:, None], counted[:, None]), np.float64
            )
        if (subjects >= 0).any():
            measured["subject"] = _hits(scores, counted, subjects)
        for measure, values in measured.items():
            found.setdefault(measure, {})[name] = values
    return found


def _shares(scores: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Make ``[S, L, n]`` rows sum to 1 over the tokens that count; NaN where nothing is there."""
    kept = np.where(counted[:, None], scores, 0)
    total = kept.sum(-1, keepdims=True)
    return np.asarray(kept / np.where(total > 0, total, np.nan))


def _hits(
    scores: NDArray[np.float64], counted: NDArray[np.bool_], subjects: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return how often the subject scores highest, ``[S, L]``; a tie of k gives each 1/k.

    NaN where the subject is not known or does not count itself.
    """
    kept = np.where(counted[:, None], scores, -np.inf)
    best = (kept == kept.max(-1, keepdims=True)) & counted[:, None]
    at = np.maximum(subjects, 0)[:, None]
    known = (subjects[:, None] >= 0) & np.take_along_axis(counted, at, -1)
    hit = np.take_along_axis(best, at[..., None], -1)[..., 0] / np.maximum(best.sum(-1), 1)
    return np.where(known, hit, np.nan)
