"""Everything that determines a training run, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, Self

from jaxflow.errors import InputError
from jaxflow.models.fields import check_fields


class RunRecord:
    """Base of the frozen records that determine a run."""

    data: Path | None
    positions: int
    buckets: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The padded lengths in use, the last one holding every sentence that fits."""
        return (*sorted(size for size in self.buckets if size < self.positions), self.positions)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        fields: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        fields["data"] = None if self.data is None else str(self.data)
        fields["buckets"] = list(self.buckets)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s result.

        Raises
        ------
        InputError
            If a field is unknown or holds an impossible value.
        """
        try:
            check_fields(cls, fields)
        except InputError as error:
            raise InputError(f"the run's configuration does not fit: {error}") from error
        fields = dict(fields)
        if fields.get("data") is not None:
            fields["data"] = Path(fields["data"])
        if "buckets" in fields:
            fields["buckets"] = tuple(fields["buckets"])
        return cls(**fields)


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


@dataclasses.dataclass(frozen=True)
class FineTuneConfig(RunRecord):
    """A fine-tuning run's configuration. The same record gives the same parameters, bit for bit.

    Attributes
    ----------
    model
        The model to begin with, a path or a name, for the record.
    data
        The corpus's folder, for the record; None is ``glue/sst2``.
    seed
        Of the fresh head, the data's order and both dropouts.
    epochs, batch
        Passes over the training rows; sentences a step.
    learning_rate, warmup, schedule, weight_decay, clip
        AdamW with linear warm-up over that share of all steps, then a line or a cosine to zero;
        the decay spares biases and norms; the gradient's global norm is clipped.
    layer_decay
        The learning rate of a layer is this times that of the layer above; 1 is the same rate for
        all. The head learns at the full rate, the embeddings as a layer below the first.
    average
        Memory of the exponential moving average of the parameters, which is what is evaluated and
        kept; 0 takes the last parameters.
    dropout
        Every dropout rate inside the model; None keeps those of its configuration.
    word_dropout
        Share of word pieces replaced by ``[MASK]`` (``[UNK]`` where there is none).
    positions
        Longest sentence in tokens; longer ones are left out of training and count as wrong.
    buckets
        Padded lengths below `positions`, in tokens; each is compiled once. A sentence goes to the
        smallest that holds it.
    checkpoint_every
        Steps between checkpoints, besides the ends of epochs.
    started_from
        Checksum of the parameters to begin with and of the training rows; written by
        `jaxflow.train.finetune.finetune`, so that a run never goes on from something else.
    """

    model: str = ""
    data: Path | None = None
    seed: int = 0
    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0
    layer_decay: float = 1.0
    average: float = 0.99
    dropout: float | None = None
    word_dropout: float = 0.0
    positions: int = 64
    buckets: tuple[int, ...] = (16, 24, 32, 44)
    checkpoint_every: int = 500
    started_from: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "positions", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("word_dropout", "average", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name} must be in [0, 1), got {value}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup must be in [0, 1], got {self.warmup}")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.schedule not in ("linear", "cosine"):
            raise InputError(f"schedule must be linear or cosine, got {self.schedule!r}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if any(size < 1 for size in self.buckets):
            raise InputError(f"buckets must be lengths from 1, got {self.buckets}")


SST2 = FineTuneConfig(layer_decay=0.9, word_dropout=0.05)
"""A 6-layer BERT of width 384 on the 6,920 whole sentences:
``jaxflow reproduce sst2 --model DIR --data DIR``; 13 minutes of processor time, accuracy .88."""
