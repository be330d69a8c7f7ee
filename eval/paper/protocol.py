"""The paper's protocol: which sentences are judged, and how.

Every sentence gives the ``[CLS]`` row of raw attention, rollout and flow for every layer, and two
reference scores from the model itself: blank-out and input gradient
(`jaxflow.eval.score.token_scores`).
The tables are Spearman's correlations between the two kinds over the sentence's tokens
(`jaxflow.eval.score.sentence_scores`). What the authors did otherwise for Table 3 is a matter of
three options.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.batches import EncodedSplit

__all__ = ["ProtocolConfig", "Score", "choose", "chosen_rows"]

PAPER_SAMPLES = 2000

Score = Literal["difference", "predicted", "last"]


@dataclasses.dataclass(frozen=True)
class ProtocolConfig:
    """How sentences are scored.

    Attributes
    ----------
    samples
        Sentences to score, drawn from the split by the seed; None takes the paper's 2,000, or all
        where there are fewer.
    seed
        Of that draw, of the random baseline and of the bootstrap.
    special_tokens
        Whether ``[CLS]`` and ``[SEP]`` count among the tokens that are correlated, as they do in
        the paper.
    min_tokens
        Shorter sentences, counted with ``[CLS]``, are left out.
    residual
        Share of the residual connection in rollout and flow.
    batch
        Sentences scored at once.
    threads
        For flow; None takes all cores.
    score
        What gradients are taken of: the ``difference`` of the two probabilities (Table 2), the
        logit of the ``predicted`` class, or that of the ``last`` one.
    reading
        A token's relevance at a layer: the ``readout`` row, that of the token that the class is
        read off (``[CLS]``), or the ``maximum``
        over all queries (Table 3), for which the authors make each row of flows sum to 1.
    ranks
        Spearman's correlation of ``average`` ranks, or the authors' of Table 3, of ``dense`` ranks
        (`jaxflow.eval.paper.dense`).
    """

    samples: int | None = None
    seed: int = 0
    special_tokens: bool = True
    min_tokens: int = 1
    residual: float = 0.5
    batch: int = 32
    threads: int | None = None
    score: Score = "difference"
    reading: Literal["readout", "maximum"] = "readout"
    ranks: Literal["average", "dense"] = "average"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        for name in ("min_tokens", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be None or at least 1, got {self.threads}")
        if not 0 <= self.residual <= 1:
            raise InputError(f"residual must be from 0 to 1, got {self.residual}")


def choose(split: EncodedSplit, config: ProtocolConfig) -> EncodedSplit:
    """Draw the sentences that are scored.

    Raises
    ------
    InputError
        If there are fewer than `samples`, or none at all.
    """
    rows = chosen_rows(split.lengths, config)
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    return dataclasses.replace(split, **{name: getattr(split, name)[rows] for name in fields})


def chosen_rows(lengths: np.ndarray, config: ProtocolConfig) -> np.ndarray:
    """Draw as `choose` does, from the sentences' lengths alone; ascending int64 ``[samples]``."""
    rows = np.flatnonzero(lengths >= config.min_tokens)
    if not len(rows):
        raise InputError(f"no test sentence has at least {config.min_tokens} tokens")
    samples = min(PAPER_SAMPLES, len(rows)) if config.samples is None else config.samples
    if not 1 <= samples <= len(rows):
        raise InputError(
            f"samples must be from 1 to the {len(rows)} test sentences that fit, got {samples}"
        )
    return np.sort(np.random.default_rng(config.seed).permutation(rows)[:samples])
