"""What changes a model's numbers and is not built here is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch_models

from jaxflow.errors import InputError
from jaxflow.models import load


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("BertModel", "GPT2Model", "ViTModel", "RobertaModel", "DistilBertModel")
    root = tmp_path_factory.mktemp("refused")
    return {
        name: torch_models.write(torch_models.random_model(name, {}), root / name) for name in names
    }


def change(folder: Path, **fields: Any) -> str:
    """Load a model with other fields in its config.json, and return what is said about it."""
    path = folder / "config.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(before) | fields), encoding="utf-8")
    try:
        with pytest.raises(InputError) as caught:
            load(folder)
    finally:
        path.write_text(before, encoding="utf-8")
    message = str(caught.value)
    assert message.startswith(f"the model in {folder} cannot be read: ")
    assert "\n" not in message
    return message.partition("cannot be read: ")[2]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("BertModel", {"pruned_heads": {"0": [1]}}, "pruned_heads must be empty: a model whose"),
        ("RobertaModel", {"pruned_heads": {"1": [0, 2]}}, "pruned_heads must be empty"),
        (
            "BertModel",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be 'absolute' for a model built here, got 'relative_key'",
        ),
        ("BertModel", {"is_decoder": True}, "is_decoder must be False for a model built here"),
        ("BertModel", {"is_decoder": True, "add_cross_attention": True}, "is_decoder must be"),
        ("GPT2Model", {"add_cross_attention": True}, "add_cross_attention must be False"),
        ("GPT2Model", {"scale_attn_weights": False}, "scale_attn_weights must be True"),
        (
            "GPT2Model",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx must be False",
        ),
        ("ViTModel", {"qkv_bias": False}, "qkv_bias must be True"),
        ("ViTModel", {"patch_size": [4, 2]}, "patch_size must be a whole number"),
        ("BertModel", {"hidden_act": "gelu_fast"}, "activation must be one of gelu_new, "),
        ("DistilBertModel", {"activation": "mish"}, "activation must be one of gelu_new, "),
        ("BertModel", {"model_type": "albert"}, "model_type must be one of bert, distilbert, rob"),
        ("BertModel", {"model_type": None}, "model_type must be one of "),
        ("BertModel", {"model_type": ["bert"]}, "model_type must be one of "),
        (
            "BertModel",
            {"architectures": ["BertForQuestionAnswering"]},
            "architectures must name one of BertModel, BertForSequenceClassification, "
            "BertForMaskedLM, got 'BertForQuestionAnswering': give the head to read",
        ),
    ],
)
def test_what_is_not_built_is_refused(
    folders: dict[str, Path], name: str, fields: dict[str, Any], message: str
) -> None:
    assert change(folders[name], **fields).startswith(message)


@pytest.mark.parametrize("head", ["lm", "something"])
def test_heads_that_an_architecture_has_not_are_refused(
    folders: dict[str, Path], head: Any
) -> None:
    with pytest.raises(InputError, match=f"head must be one of none, .* for bert, got '{head}'"):
        load(folders["BertModel"], head=head)


def test_a_head_that_a_checkpoint_has_not_is_missing(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"missing: classifier\.bias, classifier\.weight\)$"):
        load(folders["BertModel"], head="classification")
