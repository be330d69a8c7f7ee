"""Trace small models with random parameters, for tests of edge weights."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch_models
from tiny_models import sharpened, tiny

from jaxflow.edges import Trace
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer, load, trace

WORDS = tuple("abcdefghij")
#: Decoders of transformers, with what makes each differ; their windows are shorter than the texts.
DECODERS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "MistralForSequenceClassification": {"sliding_window": 3, "num_labels": 3},
    "Phi3ForCausalLM": {},
    "Gemma2ForCausalLM": {"sliding_window": 5, "final_logit_softcapping": 3.0},
    "Gemma3ForCausalLM": {"sliding_window": 3, "layer_types": ["sliding_attention"] * 3},
    "GptOssForCausalLM": {"sliding_window": 3, "num_local_experts": 5, "num_experts_per_tok": 2},
    "GPTNeoXForCausalLM": {"rotary_pct": 0.5},
}
#: Those whose blocks are not like another's.
UNLIKE = (
    "LlamaForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM", "GPTNeoXForCausalLM",
)  # fmt: skip


@functools.cache
def theirs(kind: str) -> Any:
    """A decoder of transformers, every parameter of it drawn at random."""
    return torch_models.random_model(kind, DECODERS[kind], seed=1)


@functools.cache
def model(kind: str) -> Model:
    """``pre`` an agreement encoder, ``post`` a BERT, ``causal`` a GPT-2 with classes; a decoder."""
    if kind in DECODERS:
        with tempfile.TemporaryDirectory() as folder:
            return load(torch_models.write(theirs(kind), Path(folder)))
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
    if kind in DECODERS:
        return torch_models.tokens_with_padding([6, 4], 0)
    if kind == "pre":
        return np.array([[1, 5, 7, 3, 4, 9], [1, 2, 6, 8, 0, 0]], np.int32)
    return np.array([[2, 6, 8, 9, 12, 3], [2, 7, 14, 3, 0, 0]], np.int32)


@functools.cache
def traced(kind: str) -> Trace:
    """The trace of a model; of a language model, what is explained is its last token's logit 7."""
    if model(kind).config.head != "lm":
        return trace(model(kind), tokens(kind))
    last = (tokens(kind) != 0).sum(-1) - 1
    return trace(model(kind), tokens(kind), target=lambda z: z[np.arange(2), last, 7])
