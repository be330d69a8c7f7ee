"""What scores a shard's sentences: programs are compiled once for all shards of a process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from jaxflow.eval.evaluate import spread
from jaxflow.eval.protocol import ProtocolConfig, correlate, device_scores, token_scores
from jaxflow.eval.shard_files import Shard
from jaxflow.models import Model, WordTokenizer
from jaxflow.train.accuracy import predict_split
from jaxflow.train.batches import EncodedSplit, encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import StoredSplit

__all__ = ["Report", "ScoreShard", "shard_scorer"]

Report = Callable[[int, int], None]
ScoreShard = Callable[[np.ndarray, Mapping[str, np.ndarray], Report], Shard]


def shard_scorer(
    model: Model,
    tokenizer: WordTokenizer,
    config: TrainConfig,
    protocol: ProtocolConfig,
    splits: Mapping[str, StoredSplit],
    *,
    longest: int,
    plan: str,
) -> ScoreShard:
    """Return what makes a shard of the places of sentences.

    Parameters
    ----------
    model, tokenizer, config, protocol, splits
        As of `jaxflow.eval.sharded.ShardedEvaluation`.
    longest
        Tokens of the longest sentence of all shards.
    plan
        Checksum that the shards carry.

    Returns
    -------
    Callable
        ``(chosen, parts, report) -> Shard``: places in ``splits["test"]`` of the sentences to
        score, ascending, int64 ``[S]``; of every split the places whose right answers are counted;
        and what is told how many sentences are done.
    """
    programs = device_scores(model, protocol.residual, of=protocol.score, reading=protocol.reading)
    predict = spread(model)

    def encoded(split: str, places: np.ndarray) -> EncodedSplit:
        stored = splits[split]
        found = encode_split(stored.read(places), tokenizer, config.positions)
        return dataclasses.replace(found, rows=stored.rows[places])

    def score(chosen: np.ndarray, parts: Mapping[str, np.ndarray], report: Report) -> Shard:
        test = encoded("test", chosen)
        tokens = token_scores(
            model, test, config.lengths, protocol, report, programs=programs, longest=longest
        )
        right = {}
        for name, places in parts.items():
            split = encoded(name, places)
            answers = predict_split(predict, split, config.lengths).argmax(-1)
            right[name] = int((answers == split.labels).sum())
        scores = correlate(tokens, test.lengths, protocol.ranks)
        return Shard(scores, test.rows, test.labels, right, plan)

    return score
