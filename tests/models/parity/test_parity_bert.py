"""BERT beside the BERT of transformers: every head, several sizes and manners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models
from model_pairs import (
    Pair,
    assert_attention_counts,
    assert_close,
    assert_same_numbers,
    make_pair,
    tokens_with_padding,
)

from jaxflow.models import BertConfig, load

CONFIGS: dict[str, dict[str, Any]] = {
    "three heads": {},
    "one head, gelu_new": {
        "num_attention_heads": 1,
        "hidden_size": 10,
        "num_hidden_layers": 1,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
        "type_vocab_size": 3,
        "num_labels": 5,
    },
    "five heads, relu, untied": {
        "num_attention_heads": 5,
        "hidden_size": 20,
        "num_hidden_layers": 3,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-5,
        "num_labels": 1,
        "tie_word_embeddings": False,
        "pad_token_id": 3,
    },
}
HEADS = {
    "BertModel": "none",
    "BertForSequenceClassification": "classification",
    "BertForMaskedLM": "masked-lm",
    "BertForPreTraining": "masked-lm",
}


@pytest.fixture(
    scope="module",
    params=[(head, config) for head in HEADS for config in CONFIGS],
    ids=lambda param: f"{param[0]}: {param[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, config = request.param
    changes = CONFIGS[config]
    pad_id = changes.get("pad_token_id", 0)
    tokens = tokens_with_padding((9, 6, 2), pad_id)
    types = np.random.default_rng(1).integers(0, changes.get("type_vocab_size", 2), tokens.shape)
    folder = tmp_path_factory.mktemp("bert")
    return make_pair(folder, name, changes, tokens, tokens != pad_id, types)


def test_all_numbers_are_theirs(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)  # queries of padding too


def test_padding_is_never_read(pair: Pair) -> None:
    padded = np.broadcast_to(~pair.mask[:, None, None, None, :], pair.output.attention.shape)
    assert not np.asarray(pair.output.attention)[padded].any()


def test_the_pooler_is_theirs(pair: Pair) -> None:
    config, bare = pair.ours.config, pair.told.pooled is not None
    assert isinstance(config, BertConfig)
    assert config.head == HEADS[type(pair.theirs).__name__]
    assert config.tied == pair.theirs.config.tie_word_embeddings
    assert config.pooler == bare
    if bare:
        assert_close(pair.output.pooled, pair.told.pooled)
    elif config.head == "classification":
        kernel, bias = (pair.ours.params["params"]["readout"][key] for key in ("kernel", "bias"))
        assert_close(pair.output.logits, pair.output.pooled @ kernel + bias[None])
    else:
        assert pair.output.pooled is None


def test_padding_on_the_left(tmp_path: Path) -> None:
    tokens = tokens_with_padding((9, 6, 2), 0, left=True)
    pair = make_pair(tmp_path, "BertForSequenceClassification", {}, tokens, tokens != 0)
    assert_same_numbers(pair)


def test_one_sentence_and_a_mask_that_it_finds_itself(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    pair = make_pair(tmp_path, "BertForMaskedLM", {}, tokens)
    assert_same_numbers(pair)
    longer = np.pad(tokens, ((0, 0), (0, 3)))
    padded = pair.ours(longer)
    assert_close(padded.logits[:, :7], pair.output.logits)
    assert_close(padded.hidden[:, :, :7], pair.output.hidden)
    assert_close(padded.attention[..., :7, :7], pair.output.attention)


def test_a_head_may_be_taken_off_or_another_read(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7, 4), 0)
    pair = make_pair(tmp_path, "BertForPreTraining", {}, tokens, tokens != 0)
    bare = load(tmp_path, head="none")
    output = bare(tokens)
    assert output.logits is None
    assert_close(output.hidden, pair.told.hidden)
    # The pooler of such a checkpoint is read by its head for the next sentence.
    theirs = torch_models.tell(torch_models.base(pair.theirs), tokens, tokens != 0)
    assert_close(output.pooled, theirs.pooled)
