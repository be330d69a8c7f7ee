"""Everything that determines a training run, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from jaxflow.errors import InputError
from jaxflow.train.run_record import RunRecord

__all__ = ["AGREEMENT", "PRESETS", "SYNTHETIC", "TrainConfig"]


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunRecord):
    """A training run's configuration. The same record gives the same parameters, bit for bit.

    Attributes
    ----------
    corpus
        ``synthetic`` (the built-in grammar), ``simple`` (a folder of ``numpred.*`` files) or
        ``full`` (the table of 1.57 million dependencies).
    data
        Where `simple` or `full` lie; None lets `full` be fetched.
    seed
        Of the parameters, the data's order, both dropouts and the synthetic corpus.
    epochs, batch
        Passes over the training rows; sentences a step.
    learning_rate, warmup, weight_decay, clip
        AdamW with linear warm-up over that share of all steps, then a cosine to zero; the decay
        spares biases and norms; the gradient's global norm is clipped.
    dropout, word_dropout
        Rate inside the model; share of words replaced by ``[UNK]``, which keeps blanked-out
        sentences inside the training distribution.
    attractor_share
        Share of an epoch's rows drawn from the extra rows with attractors, where there are any.
    words
        Size of the vocabulary without special tokens.
    positions, layers, heads, width
        Of the encoder.
    causal
        Whether its blocks are a decoder's: a word sees those before it, and the class is read off
        the last one.
    compute
        What a training step computes in: ``float32``, or ``bfloat16`` with softmax, statistics, the
        loss, the parameters kept and the optimiser in float32.
    flow_weight
        How much a sentence's loss falls by the share of ``[CLS]``'s flow that comes from the
        subject noun, averaged over the layers (`jaxflow.train.regulariser`); 0 leaves flow out of
        the training step. Needs a corpus that knows its subjects.
    buckets
        Padded lengths below `positions`, in tokens; each is compiled once. A sentence goes to the
        smallest that holds it.
    checkpoint_every
        Steps between checkpoints.
    """

    corpus: Literal["synthetic", "simple", "full"] = "synthetic"
    data: Path | None = None
    seed: int = 0
    epochs: int = 4
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    dropout: float = 0.1
    word_dropout: float = 0.1
    attractor_share: float = 0.3
    flow_weight: float = 0.0
    compute: Literal["float32", "bfloat16"] = "float32"
    words: int = 10_000
    positions: int = 64
    layers: int = 6
    heads: int = 8
    width: int = 128
    causal: bool = False
    buckets: tuple[int, ...] = (8, 12, 16, 24, 36)
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "words", "positions", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "word_dropout", "attractor_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup must be in [0, 1], got {self.warmup}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("seed", "weight_decay", "flow_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.flow_weight and self.causal:
            raise InputError(
                f"flow_weight must be 0 for a causal encoder, whose [CLS] sees no word, got "
                f"{self.flow_weight}"
            )
        if any(size < 1 for size in self.buckets):
            raise InputError(f"buckets must be lengths from 1, got {self.buckets}")


SYNTHETIC = TrainConfig(epochs=1)
"""The built-in grammar: ``jaxflow train --out RUN``; minutes on two cores, accuracy about .99."""

AGREEMENT = TrainConfig(corpus="simple", epochs=5, attractor_share=0.25)
"""The public agreement corpus: ``jaxflow train --data DIR --out RUN``."""

PRESETS = {
    "synthetic": SYNTHETIC,
    "simple": AGREEMENT,
    "full": dataclasses.replace(AGREEMENT, corpus="full"),
}
"""What a run of each corpus is, where nothing else is asked for."""
