"""A run's data: the corpus loaded, its vocabulary built, every split encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, Tokenizer, WordTokenizer
from jaxflow.train.batches import BatchPlan, EncodedSplit, encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import load_corpus

__all__ = ["RunData", "encoder_config", "load_splits", "prepare"]


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
    """What a run trains on.

    Attributes
    ----------
    tokenizer
        The vocabulary of the training rows.
    plan
        All training batches, by step.
    held_out
        The encoded splits that are not trained on, by name.
    too_long
        How many training sentences exceed the positions and are left out.
    """

    tokenizer: Tokenizer
    plan: BatchPlan
    held_out: Mapping[str, EncodedSplit]
    too_long: int


def prepare(config: TrainConfig) -> RunData:
    """Load a run's corpus and make everything it needs from it.

    Raises
    ------
    InputError
        If the corpus is unusable, or flow to its subjects is asked for and it knows none.
    """
    corpus = load_corpus(config.corpus, config.data, seed=config.seed)
    train = corpus["train"]
    extra = corpus.get("train_attractors") if config.attractor_share else None
    tokenizer = WordTokenizer.build(train.prefixes, config.words)
    encoded = encode_split(train, tokenizer, config.positions)
    encoded_extra = None if extra is None else encode_split(extra, tokenizer, config.positions)
    plan = BatchPlan(
        train=encoded,
        extra=encoded_extra,
        share=config.attractor_share,
        buckets=config.lengths,
        batch=config.batch,
        epochs=config.epochs,
        seed=config.seed,
        subjects=config.flow_weight > 0,
    )
    if plan.subjects and not plan.knows_subjects:
        raise InputError(
            f"flow_weight must be 0 for the corpus {config.corpus}, whose training sentences do "
            f"not say which word is the subject, got {config.flow_weight}"
        )
    held_out = {
        name: encode_split(split, tokenizer, config.positions)
        for name, split in corpus.items()
        if not name.startswith("train")
    }
    too_long = encoded.too_long + (0 if encoded_extra is None else encoded_extra.too_long)
    return RunData(tokenizer, plan, held_out, too_long)


def load_splits(config: TrainConfig, tokenizer: Tokenizer | None) -> dict[str, EncodedSplit]:
    """Load the splits that a finished run was not trained on.

    Raises
    ------
    InputError
        If the corpus is gone, or the tokenizer is not that of such a run.
    """
    if not isinstance(tokenizer, WordTokenizer):
        raise InputError("an agreement corpus is read by the vocabulary of an agreement encoder")
    corpus = load_corpus(config.corpus, config.data, seed=config.seed)
    return {
        name: encode_split(split, tokenizer, config.positions)
        for name, split in corpus.items()
        if not name.startswith("train")
    }


def encoder_config(config: TrainConfig, tokenizer: WordTokenizer) -> EncoderConfig:
    """Return the configuration of a run's encoder."""
    return EncoderConfig(
        vocabulary=len(tokenizer),
        positions=config.positions,
        layers=config.layers,
        heads=config.heads,
        width=config.width,
        dropout=config.dropout,
        causal=config.causal,
    )
