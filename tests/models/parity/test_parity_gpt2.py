"""GPT-2 beside the GPT-2 of transformers: every head, several sizes, nothing from the future."""

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

from jaxflow.models import Gpt2Config

CONFIGS: dict[str, dict[str, Any]] = {
    "three heads": {"pad_token_id": 0},
    "one head, gelu": {
        "n_head": 1,
        "n_embd": 10,
        "n_layer": 1,
        "n_inner": 15,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-3,
        "num_labels": 5,
        "pad_token_id": 36,
    },
    "five heads, relu, untied": {
        "n_head": 5,
        "n_embd": 20,
        "n_layer": 3,
        "activation_function": "relu",
        "num_labels": 1,
        "tie_word_embeddings": False,
        "pad_token_id": 3,
    },
}
HEADS = {
    "GPT2Model": "none",
    "GPT2ForSequenceClassification": "classification",
    "GPT2LMHeadModel": "lm",
}


@pytest.fixture(
    scope="module",
    params=[(head, config) for head in HEADS for config in CONFIGS],
    ids=lambda param: f"{param[0]}: {param[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, config = request.param
    pad_id = CONFIGS[config]["pad_token_id"]
    tokens = tokens_with_padding((9, 6, 2), pad_id)
    return make_pair(
        tmp_path_factory.mktemp("gpt2"), name, CONFIGS[config], tokens, tokens != pad_id
    )


def test_all_numbers_are_theirs(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)


def test_the_configuration_is_theirs(pair: Pair) -> None:
    config = pair.ours.config
    assert isinstance(config, Gpt2Config)
    assert config.head == HEADS[type(pair.theirs).__name__]
    assert config.tied == pair.theirs.config.tie_word_embeddings


def test_nothing_comes_from_the_future(pair: Pair) -> None:
    attention = np.asarray(pair.output.attention)
    n = attention.shape[-1]
    assert not attention[..., ~np.tri(n, dtype=bool)].any()
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)


def test_pooled_is_the_last_real_token_after_the_closing_norm(pair: Pair) -> None:
    if pair.ours.config.head == "lm":
        assert pair.output.pooled is None
        return
    closed = torch_models.base(pair.theirs)
    normed = []
    handle = closed.ln_f.register_forward_hook(lambda _, __, given: normed.append(given))
    torch_models.tell(pair.theirs, pair.inputs, pair.mask)
    handle.remove()
    last = pair.mask.sum(-1) - 1
    assert_close(pair.output.pooled, normed[0].numpy()[np.arange(len(last)), last])


@pytest.mark.parametrize("name", ["GPT2ForSequenceClassification", "GPT2LMHeadModel"])
def test_padding_on_the_left(name: str, tmp_path: Path) -> None:
    tokens = tokens_with_padding((8, 3, 1), 0, left=True)
    mask = tokens != 0
    pair = make_pair(tmp_path, name, {"pad_token_id": 0}, tokens, mask)
    # Padding in front may read nothing at all: theirs then reads everything, ours nothing.
    assert_same_numbers(pair, rows=mask)
    assert not np.moveaxis(np.asarray(pair.output.attention), 3, 1)[~mask].any()


def test_without_a_padding_token_every_token_is_real(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7, 7), 0)
    tokens[0, -1] = tokens[1, 0] = 0
    pair = make_pair(tmp_path, "GPT2LMHeadModel", {}, tokens)
    assert pair.ours.config.pad_id is None
    assert_same_numbers(pair)
    assert np.asarray(pair.output.attention)[1, :, :, :, 0].all()


def test_one_sentence_read_off_its_last_token_without_a_padding_token(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    assert_same_numbers(make_pair(tmp_path, "GPT2ForSequenceClassification", {}, tokens))


def test_what_comes_later_changes_nothing_before(tmp_path: Path) -> None:
    tokens = tokens_with_padding((9, 9), 0)
    pair = make_pair(tmp_path, "GPT2LMHeadModel", {}, tokens)
    short = pair.ours(tokens[:, :5])
    assert_close(short.logits, pair.output.logits[:, :5])
    assert_close(short.attention, pair.output.attention[..., :5, :5])
