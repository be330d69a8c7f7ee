"""The options that decide a training run, shared by the commands that train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.train.config import TrainConfig

__all__ = ["TrainOptions"]


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of a training run; what is not given comes from the corpus's preset."""

    data: Path | None = None
    """A folder of numpred.* files, or the table agr_50_mostcommon_10K.tsv(.gz)."""
    corpus: Literal["synthetic", "simple", "full"] | None = None
    """Which corpus; by default what lies in the data folder, or the built-in grammar."""
    seed: int | None = None
    """Of the parameters, the data's order, dropout and the synthetic corpus."""
    epochs: int | None = None
    """Passes over the training sentences."""
    batch: int | None = None
    """Sentences a step."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW."""
    weight_decay: float | None = None
    """Decay of the matrices."""
    dropout: float | None = None
    """Dropout rate inside the model."""
    word_dropout: float | None = None
    """Share of words replaced by [UNK] while training."""
    attractor_share: float | None = None
    """Share of the sentences drawn from the further ones with attractors, where there are any."""
    compute: Literal["float32", "bfloat16"] | None = None
    """What a training step computes in."""
    flow_weight: float | None = None
    """Weight of the share of [CLS]'s flow that comes from the subject noun; 0 leaves it out."""
    layers: int | None = None
    """Blocks of the encoder."""
    heads: int | None = None
    """Heads a block."""
    width: int | None = None
    """Width of the embeddings."""
    causal: bool = False
    """Whether the encoder is a decoder's twin: no word sees those behind it, and the class is read
    off the last one."""
    positions: int | None = None
    """Longest sentence in tokens, [CLS] included."""
    checkpoint_every: int | None = None
    """Steps between checkpoints."""

    def config(self, stored: TrainConfig | None = None) -> TrainConfig:
        """Return the run's configuration: the options over what is stored, or over a preset.

        Raises
        ------
        InputError
            If corpus and data do not go together, or a value is impossible.
        """
        from jaxflow.train.config import PRESETS

        given = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None and value is not False
        }
        if stored is not None:
            return dataclasses.replace(stored, **given)
        given["corpus"] = self.corpus or _corpus_in(self.data)
        if given["corpus"] == "simple" and self.data is None:
            raise InputError(
                "corpus simple is read from a folder of numpred.* files: name it with --data"
            )
        return dataclasses.replace(PRESETS[given["corpus"]], **given)


def _corpus_in(data: Path | None) -> Literal["synthetic", "simple", "full"]:
    if data is None:
        return "synthetic"
    if data.is_file() or any(data.glob("agr_50_mostcommon_10K.tsv*")):
        return "full"
    return "simple"
