"""Provide a made-up board with known values: every method, sentences of random tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from jaxflow.eval.leaderboard import scoring
from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.cases import Cases
from jaxflow.eval.leaderboard.methods import Method, all_methods
from jaxflow.eval.leaderboard.scoring import Scores

CLASSES = ("singular", "plural")
#: Measures that are worked out at every layer.
LAYERED = ("spearman_blank_out", "kendall_blank_out", "spearman_gradient", "kendall_gradient")


def methods(count: int | None = None) -> list[Method]:
    """Some of edges, gradients and baselines; by default all."""
    found = all_methods()
    if count is None:
        return found
    step = max(1, len(found[:-4]) // max(1, count - 4))
    return [*found[:-4:step][: count - 4], *found[-4:]]


def cases(sentences: int = 40, longest: int = 12, seed: int = 0) -> Cases:
    """Sentences of 4 to `longest` tokens, the first one special."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(min(4, longest), longest + 1, sentences)
    tokens = rng.integers(2, 50, (sentences, longest)).astype(np.int32)
    tokens[np.arange(longest) >= lengths[:, None]] = 0
    special = np.zeros(tokens.shape, bool)
    special[:, 0] = True
    subject = np.where(rng.random(sentences) < 0.7, 2, -1)
    return Cases(
        tokens,
        lengths,
        rng.integers(0, 2, sentences),
        special,
        np.zeros(sentences, np.int64),
        subject,
    )


def board(
    given: Cases | None = None,
    members: Sequence[Method] | None = None,
    layers: int = 4,
    seed: int = 0,
) -> Board:
    """Values that get better from method to method and layer to layer, with noise."""
    rng = np.random.default_rng(seed)
    given = cases() if given is None else given
    members = methods(14) if members is None else members
    count, n = given.tokens.shape
    rows: list[tuple[str, int | None]] = []
    values, strength = {}, []
    for place, method in enumerate(members):
        depth = layers if method.family in ("edges", "vectors") else 1
        rows += [(method.name, layer if depth > 1 else None) for layer in range(depth)]
        good = 0.0 if method.family == "baseline" else 1 - place / len(members)
        strength += [good * (layer + 1) / depth for layer in range(depth)]
        scores = rng.gamma(0.7, 1.0, (count, depth, n)) * np.where(given.mask, 1, 0)[:, None]
        signed = method.name.startswith("gradient-signed")
        values[method.name] = (scores - 0.5 * signed).astype(np.float32)
    centre = np.array(strength)[:, None]
    common = rng.normal(size=count)
    measures = {}
    for name, high in MEASURES.items():
        noise = 0.15 * rng.normal(size=(len(rows), count)) + 0.1 * common
        measures[name] = np.float32((centre if high else 1 - centre) * 0.6 + noise)
    last = {name: at for at, (name, _) in enumerate(rows)}
    below = [at for at, (name, _) in enumerate(rows) if at != last[name]]
    for name in MEASURES:
        if name not in LAYERED:
            measures[name][below] = np.nan
    measures["subject_hit"][:, given.subject < 0] = np.nan
    seconds = {method.name: 1e-4 * (1 + place) for place, method in enumerate(members)}
    scores_of = Scores(values, seconds, {"cross": "the model has no cross-attention"})
    probability = np.full(len(given), 0.75, np.float32)
    return Board(tuple(rows), measures, given, scores_of, probability)


def small_batches(patch: pytest.MonkeyPatch, tokens: int = 32) -> None:
    """Score so many tokens at once: a row of padding costs as much as another."""
    patch.setattr(scoring, "tokens_at_once", lambda: tokens)


def raw_attention_only(patch: pytest.MonkeyPatch) -> None:
    """Compile no other edge weight, and the references of gradients and removal only."""
    raw = {"raw": scoring.edge_weights()["raw"]}
    patch.setattr(scoring, "edge_weights", lambda heads: raw)
    patch.setattr(scoring, "propagations", dict)
    patch.setattr(scoring, "GRADIENTS", {"gradient-norm": "gradient norm"})
    patch.setattr(scoring, "REMOVALS", {"blank-out": "blank-out"})
