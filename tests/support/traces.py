"""Trace small models with random parameters, for tests of edge weights."""

from __future__ import annotations

import functools

import jax
import numpy as np
from tiny_models import sharpened, tiny

from jaxflow.edges import Trace
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer, trace

WORDS = tuple("abcdefghij")


@functools.cache
def model(kind: str) -> Model:
    """``pre`` is an agreement encoder, ``post`` a BERT, ``causal`` a GPT-2, all with classes."""
    if kind == "post":
        return tiny()
    if kind == "causal":
        return tiny(causal=True)
    tokenizer = WordTokenizer(("[PAD]", "[CLS]", "[UNK]", *WORDS))
    config = EncoderConfig(
        vocabulary=len(tokenizer), positions=12, layers=3, heads=2, width=16, classes=3
    )
    params = AgreementEncoder(config).init(jax.random.key(0), np.ones((1, 2), np.int32))
    # Norms and biases that are not those of the first step, so that none can be forgotten.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), sharpened(params))
    return Model(config, jax.tree.map(lambda leaf: leaf.astype(np.float32), params), tokenizer)


def tokens(kind: str) -> np.ndarray:
    """Two sentences, the second padded."""
    if kind == "pre":
        return np.array([[1, 5, 7, 3, 4, 9], [1, 2, 6, 8, 0, 0]], np.int32)
    return np.array([[2, 6, 8, 9, 12, 3], [2, 7, 14, 3, 0, 0]], np.int32)


@functools.cache
def traced(kind: str) -> Trace:
    return trace(model(kind), tokens(kind))
