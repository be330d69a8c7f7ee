"""Prepare a run's data: load the corpus, build its vocabulary, encode every split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, Tokenizer, WordTokenizer
from jaxflow.train.batches import BatchPlan, EncodedSplit, encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import Split, load_corpus


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
    """Data of a run on sentences: all training batches, and the splits that are not trained on.

    `too_long` training sentences exceed the positions and are left out.
    """

    tokenizer: Tokenizer
    plan: BatchPlan
    held_out: Mapping[str, EncodedSplit]
    too_long: int


def prepare(config: TrainConfig) -> RunData:
    """Load a run's corpus and make everything it needs from it."""
    corpus = load_corpus(config.corpus, config.data, seed=config.seed)
    tokenizer = WordTokenizer.build(corpus["train"].prefixes, config.words)
    names = ("train", "train_attractors") if config.attractor_share else ("train",)
    encoded = [
        encode_split(corpus[name], tokenizer, config.positions) for name in names if name in corpus
    ]
    plan = BatchPlan(
        train=encoded[0],
        extra=encoded[1] if len(encoded) > 1 else None,
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
    too_long = sum(split.too_long for split in encoded)
    return RunData(tokenizer, plan, _held_out(corpus, tokenizer, config), too_long)


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
    return _held_out(corpus, tokenizer, config)


def _held_out(
    corpus: Mapping[str, Split], tokenizer: WordTokenizer, config: TrainConfig
) -> dict[str, EncodedSplit]:
    return {
        name: encode_split(split, tokenizer, config.positions)
        for name, split in corpus.items()
        if not name.startswith("train")
    }


def encoder_config(config: TrainConfig, tokenizer: Tokenizer) -> EncoderConfig:
    """Return the configuration of a run's encoder."""
    sizes = {name: getattr(config, name) for name in ("positions", "layers", "heads", "width")}
    return EncoderConfig(
        vocabulary=len(tokenizer), dropout=config.dropout, causal=config.causal, **sizes
    )
