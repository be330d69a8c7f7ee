"""RoBERTa beside the RoBERTa of transformers: every head, several sizes, its own positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
    "one head, gelu_new": {
        "num_attention_heads": 1,
        "hidden_size": 10,
        "num_hidden_layers": 1,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
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
        "type_vocab_size": 2,
        "pad_token_id": 3,
    },
}
HEADS = {
    "RobertaModel": "none",
    "RobertaForSequenceClassification": "classification",
    "RobertaForMaskedLM": "masked-lm",
}


@pytest.fixture(
    scope="module",
    params=[(head, config) for head in HEADS for config in CONFIGS],
    ids=lambda param: f"{param[0]}: {param[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, config = request.param
    pad_id = CONFIGS[config].get("pad_token_id", 1)
    tokens = tokens_with_padding((9, 6, 2), pad_id)
    folder = tmp_path_factory.mktemp("roberta")
    return make_pair(folder, name, CONFIGS[config], tokens, tokens != pad_id)


def test_all_numbers_are_theirs(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)


def test_the_configuration_is_theirs(pair: Pair) -> None:
    config, theirs = pair.ours.config, pair.theirs.config
    assert isinstance(config, BertConfig)
    assert (config.kind, config.head) == ("roberta", HEADS[type(pair.theirs).__name__])
    assert config.tied == theirs.tie_word_embeddings
    # Positions are counted from behind the padding's number, so as many fewer can be used.
    assert config.positions == theirs.max_position_embeddings - theirs.pad_token_id - 1


def test_the_pooler_is_theirs(pair: Pair) -> None:
    if pair.told.pooled is not None:
        assert_close(pair.output.pooled, pair.told.pooled)
    else:
        assert (pair.output.pooled is None) == (pair.ours.config.head == "masked-lm")


def test_padding_on_the_left_takes_no_position(tmp_path: Path) -> None:
    tokens = tokens_with_padding((8, 3, 1), 1, left=True)
    pair = make_pair(tmp_path, "RobertaForMaskedLM", {}, tokens, tokens != 1)
    assert_same_numbers(pair)
    alone = pair.ours(tokens[1:2, -3:])
    assert_close(alone.logits, pair.output.logits[1:2, -3:])


def test_a_hidden_token_keeps_its_position(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7, 5), 1)
    mask = tokens != 1
    mask[0, 2] = False  # real, and not to be read
    assert_same_numbers(make_pair(tmp_path, "RobertaModel", {}, tokens, mask))


def test_the_longest_sentence_and_one_more(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "RobertaModel", {}, tokens_with_padding((16,), 1))
    assert_same_numbers(pair)
    with pytest.raises(InputError, match=r"^tokens must be at most 16 a sentence .* got 17"):
        pair.ours(tokens_with_padding((17,), 1))
