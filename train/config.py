"""Define the configurations of training runs, frozen and convertible to dictionaries."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from jaxflow.errors import InputError
from jaxflow.models.config import check_fields


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Configuration that any training run has; a base of records with further fields.

    Attributes
    ----------
    seed
        Of the data's order and of everything random in a step.
    epochs, batch
        Passes over the training rows; rows a step.
    learning_rate, warmup, weight_decay, clip
        AdamW with linear warm-up over that share of all steps, then a cosine to zero; the decay
        spares biases and norms; the gradient's global norm is clipped.
    checkpoint_every
        Steps between checkpoints, besides the ends of epochs.
    """

    seed: int = 0
    epochs: int = 4
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    checkpoint_every: int = 500

    # Fields beside those above that must be at least 1, in [0, 1) or None, or at least 0.
    _counts: ClassVar[tuple[str, ...]] = ()
    _shares: ClassVar[tuple[str, ...]] = ()
    _weights: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        def check(names: tuple[str, ...], fits: Any, expected: str) -> None:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise InputError(f"{name} must be {expected}, got {value}")

        check(
            ("epochs", "batch", "checkpoint_every", *self._counts), lambda v: v >= 1, "at least 1"
        )
        check(self._shares, lambda v: 0 <= v < 1, "in [0, 1)")
        check(("warmup",), lambda v: 0 <= v <= 1, "in [0, 1]")
        check(("learning_rate", "clip"), lambda v: 0 < v < math.inf, "positive and finite")
        check(("seed", "weight_decay", *self._weights), lambda v: 0 <= v < math.inf, "at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        kinds: dict[type, Any] = {Path: str, tuple: list}
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: next((to(v) for kind, to in kinds.items() if isinstance(v, kind)), v)
            for name, v in fields.items()
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the configuration of `to_dict`'s result.

        Raises
        ------
        InputError
            If a field is unknown or holds an impossible value.
        """
        try:
            check_fields(cls, fields)
        except InputError as error:
            raise InputError(f"the run's configuration does not fit: {error}") from error
        fields = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
        if fields.get("data") is not None:
            fields["data"] = Path(fields["data"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class TextConfig(FitConfig):
    """Configuration of a run on sentences.

    Attributes
    ----------
    data
        Folder of the corpus; None has it generated or fetched.
    positions
        Longest sentence in tokens; longer ones are left out of training and count as wrong.
    buckets
        Padded lengths below `positions`, in tokens; each is compiled once. A sentence goes to the
        smallest that holds it.
    word_dropout
        Share of words replaced by ``[MASK]`` of a tokenizer that has one, else by ``[UNK]``.
    """

    data: Path | None = None
    positions: int = 64
    buckets: tuple[int, ...] = (8, 12, 16, 24, 36)
    word_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(size < 1 for size in self.buckets):
            raise InputError(f"buckets must be lengths from 1, got {self.buckets}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The padded lengths in use, the last one holding every sentence that fits."""
        return (*sorted(size for size in self.buckets if size < self.positions), self.positions)


@dataclasses.dataclass(frozen=True)
class TrainConfig(TextConfig):
    """Configuration of an agreement encoder's training; the same record gives the same bits.

    Attributes
    ----------
    corpus
        ``synthetic`` (the built-in grammar), ``simple`` (a folder of ``numpred.*`` files, named by
        `data`) or ``full`` (the table of 1.57 million dependencies).
    seed
        Of the parameters, the data's order, both dropouts and the synthetic corpus.
    dropout
        Rate inside the model.
    attractor_share
        Share of an epoch's rows drawn from the extra rows with attractors, where there are any.
    flow_weight
        How much a sentence's loss falls by the share of ``[CLS]``'s flow that comes from the
        subject noun, averaged over the layers (`jaxflow.train.regulariser`); 0 leaves flow out of
        the training step. Needs a corpus with known subjects.
    compute
        Precision of a training step: ``float32``, or ``bfloat16`` with softmax, statistics, the
        loss, the parameters kept and the optimiser in float32.
    words
        Size of the vocabulary without special tokens.
    layers, heads, width
        Of the encoder.
    causal
        Whether its blocks are a decoder's: a word attends to those before it, and the class is read
        off the last one.
    """

    corpus: Literal["synthetic", "simple", "full"] = "synthetic"
    dropout: float = 0.1
    attractor_share: float = 0.3
    flow_weight: float = 0.0
    compute: Literal["float32", "bfloat16"] = "float32"
    words: int = 10_000
    layers: int = 6
    heads: int = 8
    width: int = 128
    causal: bool = False

    _counts = ("words", "positions")
    _shares = ("dropout", "word_dropout", "attractor_share")
    _weights = ("flow_weight",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_weight and self.causal:
            raise InputError(
                f"flow_weight must be 0 for a causal encoder, whose [CLS] attends to no word, got "
                f"{self.flow_weight}"
            )


SYNTHETIC = TrainConfig(epochs=1)
"""The built-in grammar: ``jaxflow train --out RUN``; minutes on two cores, accuracy about .99."""

AGREEMENT = TrainConfig(corpus="simple", epochs=5, attractor_share=0.25)
"""The public agreement corpus: ``jaxflow train --data DIR --out RUN``."""

PRESETS = {
    "synthetic": SYNTHETIC,
    "simple": AGREEMENT,
    "full": dataclasses.replace(AGREEMENT, corpus="full"),
}
"""Default configuration for each corpus."""


@dataclasses.dataclass(frozen=True)
class FineTuneConfig(TextConfig):
    """Configuration of a fine-tuning run; the same record gives the same parameters, bit for bit.

    Attributes
    ----------
    model
        The model to begin with, a path or a name, for the record.
    seed
        Of the fresh head, the data's order and both dropouts.
    schedule
        Learning rate after the warm-up: a line or a cosine to zero.
    layer_decay
        The learning rate of a layer is this times that of the layer above; 1 is the same rate for
        all. The head learns at the full rate, the embeddings as a layer below the first.
    average
        Decay of the exponential moving average of the parameters, which is what is evaluated and
        kept; 0 takes the last parameters.
    dropout
        Every dropout rate inside the model; None keeps those of its configuration.
    started_from
        Checksum of the parameters to begin with and of the training rows; written by
        `jaxflow.train.finetuning.finetune`, so that a run never goes on from something else.
    """

    model: str = ""
    batch: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    average: float = 0.99
    dropout: float | None = None
    word_dropout: float = 0.0
    buckets: tuple[int, ...] = (16, 24, 32, 44)
    started_from: str = ""

    _counts = ("positions",)
    _shares = ("word_dropout", "average", "dropout")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.schedule not in ("linear", "cosine"):
            raise InputError(f"schedule must be linear or cosine, got {self.schedule!r}")


SST2 = FineTuneConfig(layer_decay=0.9, word_dropout=0.05)
"""A 6-layer BERT of width 384 on the 6,920 whole sentences:
``jaxflow reproduce sst2 --model DIR --data DIR``; 13 minutes of processor time, accuracy .88."""
