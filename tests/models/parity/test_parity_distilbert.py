"""DistilBERT beside the DistilBERT of transformers: every head, several sizes and manners."""

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

from jaxflow.errors import InputError
from jaxflow.models import BertConfig

CONFIGS: dict[str, dict[str, Any]] = {
    "three heads": {},
    "one head, tanh": {
        "n_heads": 1,
        "dim": 10,
        "n_layers": 1,
        "activation": "gelu_pytorch_tanh",
        "num_labels": 5,
    },
    "five heads, relu, untied": {
        "n_heads": 5,
        "dim": 20,
        "n_layers": 3,
        "activation": "relu",
        "num_labels": 1,
        "tie_word_embeddings": False,
        "pad_token_id": 3,
    },
}
HEADS = {
    "DistilBertModel": "none",
    "DistilBertForSequenceClassification": "classification",
    "DistilBertForMaskedLM": "masked-lm",
}


@pytest.fixture(
    scope="module",
    params=[(head, config) for head in HEADS for config in CONFIGS],
    ids=lambda param: f"{param[0]}: {param[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, config = request.param
    tokens = tokens_with_padding((9, 6, 2), CONFIGS[config].get("pad_token_id", 0))
    mask = tokens != CONFIGS[config].get("pad_token_id", 0)
    return make_pair(tmp_path_factory.mktemp("distilbert"), name, CONFIGS[config], tokens, mask)


def test_all_numbers_are_theirs(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)


def test_the_configuration_is_theirs(pair: Pair) -> None:
    config = pair.ours.config
    assert isinstance(config, BertConfig)
    assert (config.kind, config.head) == ("distilbert", HEADS[type(pair.theirs).__name__])
    assert config.tied == pair.theirs.config.tie_word_embeddings
    assert config.classes == (pair.theirs.num_labels if config.head == "classification" else 0)


def test_classes_are_read_off_what_is_pooled(pair: Pair) -> None:
    if pair.ours.config.head != "classification":
        assert pair.output.pooled is None
        return
    theirs = pair.theirs
    entered = []
    handle = theirs.classifier.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    torch_models.tell(theirs, pair.inputs, pair.mask)
    handle.remove()
    assert_close(pair.output.pooled, entered[0].numpy())
    assert (np.asarray(pair.output.pooled) >= 0).all()  # rectified, where BERT takes tanh


@pytest.mark.parametrize("left", [False, True], ids=["on the right", "on the left"])
def test_padding(left: bool, tmp_path: Path) -> None:
    tokens = tokens_with_padding((8, 3, 1), 0, left=left)
    name = "DistilBertForSequenceClassification"
    assert_same_numbers(make_pair(tmp_path, name, {}, tokens, tokens != 0))


def test_one_sentence_without_a_mask_and_no_segments(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    pair = make_pair(tmp_path, "DistilBertModel", {}, tokens)
    assert_same_numbers(pair)
    with pytest.raises(InputError, match=r"^token_types must be None: DistilBERT knows no seg"):
        pair.ours(tokens, token_types=np.zeros_like(tokens))
