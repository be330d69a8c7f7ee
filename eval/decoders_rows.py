"""Rows of a decoder's scores: what a place explains of them, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.edges import receptive_field

__all__ = ["measure_rows", "place_rows"]


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
