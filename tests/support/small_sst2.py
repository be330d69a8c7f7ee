"""Generate reviews whose words decide their label, and random models for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import SPECIAL, word_pieces

from jaxflow.models import BertConfig, Model, SubwordTokenizer, init
from jaxflow.train.config import FineTuneConfig
from jaxflow.train.sst2 import Sentences

GOOD, BAD = ("great", "moving", "funny"), ("dull", "bad", "lifeless")
PLAIN = ("a", "the", "film", "plot", "cast", "and", "is", ",", "its")
# "lifeless" and "funny" are two pieces each.
PIECES = ("great", "moving", "fun", "##ny", "dull", "bad", "life", "##less", *PLAIN)
VOCABULARY = (*SPECIAL, *PIECES)
POSITIONS = 14


def sentences(count: int, seed: int, longest: int = 8) -> Sentences:
    """Draw reviews of 3 to `longest` words with one word of praise or blame each."""
    rng = np.random.default_rng(seed)
    texts, labels = [], rng.integers(0, 2, count).astype(np.int32)
    for label in labels:
        words = list(rng.choice(PLAIN, rng.integers(2, longest)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words))
    return Sentences(tuple(texts), labels)


def corpus() -> dict[str, Sentences]:
    """Return splits as `load_sst2` does, the test's labels not given."""
    test = sentences(10, 3)
    return {
        "train": sentences(200, 1),
        "dev": sentences(60, 2),
        "test": Sentences(test.texts, np.full_like(test.labels, -1)),
    }


def write_corpus(folder: Path) -> Path:
    """Write `corpus` as the files that `load_sst2` reads."""
    folder.mkdir(parents=True)
    for name, split in corpus().items():
        rows = zip(split.texts, split.labels, strict=True)
        text = "".join(f"{text}\t{label}\n" for text, label in rows)
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


def tokenizer() -> SubwordTokenizer:
    return word_pieces(VOCABULARY)


def redrawn(params: Any, seed: int, scale: float) -> Any:
    """Draw every parameter anew, of a size `scale`, about 1 where it was 1 and else about 0."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        return jnp.asarray((leaf == 1) + rng.normal(scale=scale, size=leaf.shape), jnp.float32)

    return jax.tree.map(draw, params)


def tiny_bert(seed: int = 0, scale: float = 0.1, **options: object) -> Model:
    """Make a random BERT, bare unless `options` say otherwise, its weights of a size `scale`."""
    sizes = {"layers": 1, "heads": 2, "width": 16, "hidden_width": 32, "positions": POSITIONS}
    config = BertConfig(**{"vocabulary": len(VOCABULARY)} | sizes | options)  # type: ignore[arg-type]
    return Model(config, redrawn(init(config, seed), seed, scale), tokenizer())


def small_finetuning(**options: object) -> FineTuneConfig:
    """A run of 30 steps in three epochs, with every kind of noise that fine-tuning has."""
    given = {
        "epochs": 3,
        "batch": 20,
        "learning_rate": 2e-2,
        "layer_decay": 0.9,
        "average": 0.8,
        "word_dropout": 0.05,
        "positions": POSITIONS,
        "buckets": (),  # one shape, because each is compiled
        "checkpoint_every": 7,
    }
    return FineTuneConfig(**given | options)  # type: ignore[arg-type]
