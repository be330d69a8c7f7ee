"""From what methods say of tokens to numbers by sentence: how far they agree, how focused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

import jaxflow
from jaxflow.eval.paper.dense import dense_spearman
from jaxflow.eval.paper.protocol import ProtocolConfig, choose
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.score.token_scores import TokenScores, token_scores
from jaxflow.models import Model
from jaxflow.train.batches import EncodedSplit

__all__ = ["correlate", "score_sentences"]

# Sentences correlated at once.
BLOCK = 64


def score_sentences(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SentenceScores, dict[str, np.ndarray]]:
    """Score the sentences of a split by the protocol.

    Returns
    -------
    tuple
        The scores by sentence, and the arrays behind them by the names that ``scores.npz`` gives
        them: the token scores of every method (float32, NaN where there is no token), the rows
        of the split and the tokens' numbers.
    """
    chosen = choose(split, config)
    tokens = token_scores(model, chosen, lengths, config, report)
    extra = {
        **{
            f"tokens/{name}": tokens.methods[name].astype(np.float32)
            for name in ("raw", "rollout", "flow")
        },
        **{f"tokens/{name}": values.astype(np.float32) for name, values in tokens.targets.items()},
        "tokens/column_sum": tokens.methods["column_sum"][:, 0].astype(np.float32),
        "tokens/ids": chosen.tokens[:, : tokens.counted.shape[1]],
        "labels": chosen.labels,
        "rows": chosen.rows,
    }
    return correlate(tokens, chosen.lengths, config.ranks), extra


def correlate(
    scores: TokenScores, lengths: np.ndarray, ranks: Literal["average", "dense"] = "average"
) -> SentenceScores:
    """Turn token scores into correlations, saturated shares and entropies a sentence and layer."""
    counted = scores.counted
    correlations = _correlations(scores, lengths, ranks)
    share = (scores.saturated & counted[:, None]).sum(-1) / counted.sum(-1)[:, None]
    entropy = {
        name: _relative_entropy(scores.methods[name], counted)
        for name in ("raw", "rollout", "flow")
    }
    return SentenceScores(correlations, share, entropy, lengths)


def _correlations(
    scores: TokenScores, lengths: np.ndarray, ranks: Literal["average", "dense"]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the correlations by target and row, float64 ``[S, L]``.

    Every pair of tokens is compared, so sentences are taken by length, in blocks of few shapes that
    end with their longest: most of what is compared would be padding otherwise. Ranks and their
    sums are exact, so neither the blocks nor the padding are seen in the result.
    """
    spearman = jaxflow.spearman if ranks == "average" else dense_spearman
    rows, sentences, longest = tuple(scores.methods), len(lengths), scores.counted.shape[1]
    layers = scores.saturated.shape[1]
    found = {target: np.empty((len(rows), sentences, layers)) for target in scores.targets}
    order = np.argsort(lengths, kind="stable")
    block = min(BLOCK, sentences)
    for begin in range(0, sentences, block):
        these = order[begin : begin + block]
        cut = longest if sentences <= BLOCK else min(-(-lengths[these].max() // 8) * 8, longest)
        # The last block is filled up with a sentence that nobody reads.
        filled = np.resize(these, block)
        values = np.nan_to_num(np.stack([scores.methods[row][filled, :, :cut] for row in rows]))
        counted = scores.counted[None, filled, None, :cut]
        for target, reference in scores.targets.items():
            against = np.nan_to_num(reference[None, filled, None, :cut])
            now = np.asarray(spearman(values, against, counted))
            found[target][:, these] = now[:, : len(these)]
    return {target: dict(zip(rows, values, strict=True)) for target, values in found.items()}


def _relative_entropy(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Entropy of the normalised ``[S, L, n]`` rows, from 0 (one token) to 1 (uniform)."""
    weights = np.where(counted[:, None], np.nan_to_num(values), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=-1)
    tokens = counted.sum(-1)[:, None]
    return np.where(tokens > 1, entropy / np.log(np.maximum(tokens, 2)), np.nan)
