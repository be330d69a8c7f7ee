"""What scores a shard's sentences: programs are compiled once for all shards of a process."""

from __future__ import annotations

from collections.abc import Callable

from jaxflow.eval.paper.evaluate import spread
from jaxflow.eval.paper.protocol import ProtocolConfig, correlate, device_scores, token_scores
from jaxflow.eval.sharded.files import Shard
from jaxflow.eval.sharded.sentences import ShardSentences
from jaxflow.models import Model
from jaxflow.train.batches import predict_split

__all__ = ["Report", "ScoreShard", "shard_scorer"]

Report = Callable[[int, int], None]
ScoreShard = Callable[[ShardSentences, Report], Shard]


def shard_scorer(
    model: Model,
    lengths: tuple[int, ...],
    protocol: ProtocolConfig,
    *,
    longest: int,
    plan: str,
) -> ScoreShard:
    """Return what makes a shard of its sentences.

    Parameters
    ----------
    model, protocol
        As of `jaxflow.eval.sharded.run.ShardedEvaluation`.
    lengths
        That sentences are padded to.
    longest
        Tokens of the longest sentence of all shards.
    plan
        Checksum that the shards carry.

    Returns
    -------
    Callable
        ``(sentences, report) -> Shard``; `report` is told how many of them are scored.
    """
    programs = device_scores(model, protocol)
    predict = spread(model)

    def score(sentences: ShardSentences, report: Report) -> Shard:
        test = sentences.scored
        tokens = token_scores(
            model, test, lengths, protocol, report, programs=programs, longest=longest
        )
        right = {}
        for name, split in sentences.counted.items():
            answers = predict_split(predict, split, lengths).argmax(-1)
            right[name] = int((answers == split.labels).sum())
        scores = correlate(tokens, test.lengths, protocol.ranks)
        return Shard(scores, test.rows, test.labels, right, plan)

    return score
