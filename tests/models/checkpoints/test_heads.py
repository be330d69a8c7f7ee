"""Another head on a model that was loaded, and what else a model is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoints import assert_same_parameters
from model_pairs import assert_close, tokens_with_padding

from jaxflow.errors import InputError
from jaxflow.models import Model, load, save_pretrained, with_head


def test_another_head_keeps_the_encoder(model: Model) -> None:
    changed = with_head(model, "classification", labels=("no", "yes"), seed=1, dropout=0.3)
    assert changed.config.labels == ("no", "yes")
    assert changed.config.dropout == 0.3
    before, after = model.params["params"], changed.params["params"]
    assert before.keys() - after.keys() == {"masked"}
    assert after.keys() - before.keys() == {"pooler", "readout"}
    for name in before.keys() & after.keys():
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    other = with_head(model, "classification", labels=("no", "yes"), seed=2)
    assert np.abs(after["readout"]["kernel"] - other.params["params"]["readout"]["kernel"]).min()
    tokens = tokens_with_padding((5, 3), 0)
    assert_close(changed(tokens).hidden, model(tokens).hidden)
    assert changed(tokens).logits.shape == (2, 2)


def test_a_bare_model_gets_a_head_and_is_written(masked: Path, tmp_path: Path) -> None:
    bare = load(masked, head="none")
    assert bare.config.pooler
    for head, labels in (("masked-lm", ()), ("classification", ("a", "b", "c"))):
        changed = with_head(bare, head, labels=labels)
        assert changed.params["params"].keys() >= {"word", "blocks_0", "blocks_1"}
        save_pretrained(tmp_path / head, changed)
        assert_same_parameters(load(tmp_path / head), changed)
    pooled = with_head(bare, "classification", labels=("a",)).params["params"]["pooler"]
    jax.tree.map(np.testing.assert_array_equal, pooled, bare.params["params"]["pooler"])


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("lm", {}),
        ("classification", {}),
        ("none", {"labels": ("a",)}),
        ("none", {"dropout": 1.5}),
        ("none", {"tempo": 1}),
    ],
)
def test_heads_that_cannot_be_are_refused(head: Any, options: dict[str, Any], model: Model) -> None:
    with pytest.raises(InputError):
        with_head(model, head, **options)


def test_segments_outside_the_table_are_refused(model: Model) -> None:
    tokens = tokens_with_padding((5, 3), 0)
    with pytest.raises(InputError, match=r"^token_types must be numbers from 0 to 1, got 0 to 2$"):
        model(tokens, token_types=np.array([[0, 1, 2, 0, 0]] * 2))
    with pytest.raises(InputError, match=r"^token_types must be of shape \(2, 5\), got \(2, 4\)"):
        model(tokens, token_types=np.zeros((2, 4), int))


def test_a_folder_without_a_tokenizer_says_so(model: Model) -> None:
    assert model.tokenizer is None
    with pytest.raises(InputError, match=r"^the model must have a tokenizer to read text"):
        _ = model.text
