"""Build tiny published models with random parameters and a tokenizer of word pieces."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, processors

from jaxflow.models import (
    BertConfig,
    DecoderConfig,
    EncoderConfig,
    Gpt2Config,
    Model,
    SubwordTokenizer,
    WordTokenizer,
    init,
    read_tokenizer,
)
from jaxflow.models.rotary import Rotary
from jaxflow.models.tokenizer import SPECIAL_TOKENS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("the", "key", "##s", "to", "cabinet", "un", "##like", "##ly", "are", ".", "'")


def word_pieces(vocabulary: Sequence[str]) -> SubwordTokenizer:
    """BERT's kind of tokenizer; `vocabulary` holds `SPECIAL`."""
    return read_back(BertWordPieceTokenizer({piece: at for at, piece in enumerate(vocabulary)}))


def byte_pairs(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]]) -> SubwordTokenizer:
    """RoBERTa's kind of tokenizer; `vocabulary` begins with its special tokens."""
    made: Any = ByteLevelBPETokenizer({piece: at for at, piece in enumerate(vocabulary)}, merges)
    made.add_special_tokens(list(vocabulary[:5]))
    made._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return read_back(made)


def read_back(backend: Any) -> SubwordTokenizer:
    """Save a tokenizer of the library as ``tokenizer.json`` and read that."""
    with tempfile.TemporaryDirectory() as folder:
        backend.save(f"{folder}/tokenizer.json")
        found = read_tokenizer(Path(folder))
    assert found is not None
    return found


def tokenizer() -> SubwordTokenizer:
    return word_pieces((*SPECIAL, *PIECES))


def assert_same_parameters(left: Model, right: Model) -> None:
    assert left.config == right.config
    assert jax.tree.structure(left.params) == jax.tree.structure(right.params)
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)


def sharpened(params: Any, times: float = 8) -> Any:
    """Larger weights than the first ones, so that no score is lost in rounding."""
    return jax.tree.map(lambda leaf: leaf * times if np.ndim(leaf) > 1 else leaf, params)


@functools.cache
def tiny(head: str = "classification", *, causal: bool = False, **changes: Any) -> Model:
    """A model of two layers and two heads; `causal` a GPT-2, else a BERT."""
    labels = ("negative", "neutral", "positive") if head == "classification" else ()
    sizes = {
        "vocabulary": len(SPECIAL) + len(PIECES), "positions": 40, "layers": 2, "heads": 2,
        "width": 16, "hidden_width": 24, "labels": labels, "head": head, "pad_id": 0,
    }  # fmt: skip
    config = (Gpt2Config if causal else BertConfig)(**(sizes | changes))
    return Model(config, sharpened(init(config)), tokenizer())


@functools.cache
def tiny_decoder(**changes: Any) -> Model:
    """A decoder of three layers, four heads on two of keys and values; a Llama's by default."""
    text = tokenizer()
    sizes = {
        "vocabulary": len(text), "positions": 64, "layers": 3, "heads": 4, "key_heads": 2,
        "head_width": 8, "width": 32, "hidden_width": 48, "rotary": (Rotary(8),),
    }  # fmt: skip
    config = DecoderConfig(**(sizes | changes))
    return Model(config, sharpened(init(config), 4), text)


@functools.cache
def tiny_agreement(words: Sequence[str] = (), **changes: Any) -> Model:
    """An agreement encoder of two layers and two heads, which knows five words, and `words`."""
    tokenizer = WordTokenizer((*SPECIAL_TOKENS, "the", "keys", "to", "cabinet", "Paris", *words))
    sizes = {"vocabulary": len(tokenizer), "positions": 40, "layers": 2, "heads": 2, "width": 16}
    config = EncoderConfig(**(sizes | changes))
    return Model(config, sharpened(init(config), 20), tokenizer)
